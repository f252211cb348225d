/* Load for one server on loopback, from one thread on one core.
 *
 *   load MODE PORT CONNECTIONS IN_FLIGHT TOTAL BYTES CORE TYPE RATE
 *
 * MODE is echo, insert (both speak qrpc to kqs) or put (speaks to beanstalkd). Each connection keeps IN_FLIGHT calls
 * unanswered and sends as many new ones as answers it read, so none can run ahead. BYTES is the size of the echoed value, the
 * job's JSON, or the body put. With one call in flight in all it does not sleep while it waits, so that waking it is no part of
 * the rate. RATE is the most calls a second that are sent in all; 0 for no such bound. Every answer must be a success: the first
 * that is not ends the run. Prints one JSON object; times in microseconds, from the write that carried a call to the read that
 * brought its answer. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 1 << 18, LINE_EXTRA = 128, MAX_EVENTS = 256, LIMIT_S = 600 };

struct connection {
    int fd;
    char *out;            /* calls built and not yet written: out[out_from .. out_to) */
    size_t out_from, out_to;
    char in[READ_BYTES];  /* an answer's beginning, kept until its newline comes */
    size_t in_used;
    uint32_t *order;      /* ring of the calls in flight, oldest at answered % in_flight (mode put answers in order) */
    uint64_t sent, answered;
    int wants_write;
};

static enum { ECHO, INSERT, PUT } mode;
static uint32_t in_flight, total, next_call, answered_total;
static char *middle;      /* what follows the call's id, newline included */
static size_t middle_bytes;
static double rate;       /* calls a second in all; 0: as fast as they are answered */
static uint64_t began;    /* ns */
static uint64_t *sent_at; /* ns, by call */
static uint32_t *took;    /* ns, by call */
static int poller;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static char *filler(long bytes) {
    if (bytes < 1) die("BYTES is too small for this mode");
    char *text = malloc((size_t)bytes + 1);
    memset(text, 'x', (size_t)bytes);
    text[bytes] = 0;
    return text;
}

static void build_middle(long bytes, const char *type) {
    long around = (long)strlen("{\"type\":\"\",\"data\":\"\"}") + (long)strlen(type);
    int written = -1;
    if (mode == ECHO)
        written = asprintf(&middle, ",\"n\":\"echo\",\"m\":\"%s\"}\n", filler(bytes - 2));
    else if (mode == INSERT)
        written = asprintf(&middle, ",\"n\":\"insert\",\"m\":{\"type\":\"%s\",\"data\":\"%s\"}}\n", type, filler(bytes - around));
    else
        written = asprintf(&middle, "put 1024 0 60 %ld\r\n%s\r\n", bytes, filler(bytes));
    if (written < 0) die("out of memory");
    middle_bytes = (size_t)written;
}

/* Append the calls that `c` may have in flight beside those it has, as far as they are due, to what it has to write. */
static void build_calls(struct connection *c) {
    uint64_t now = now_ns();
    double due = rate > 0 ? (double)(now - began) / 1e9 * rate : total;
    if (due > total) due = total;
    for (uint32_t count = in_flight - (uint32_t)(c->sent - c->answered); count > 0 && next_call < due; count--) {
        char *at = c->out + c->out_to;
        if (mode != PUT) at += sprintf(at, "{\"v\":1,\"id\":%u", next_call);
        memcpy(at, middle, middle_bytes);
        c->out_to = (size_t)(at - c->out) + middle_bytes;
        c->order[c->sent++ % in_flight] = next_call;
        sent_at[next_call++] = now;
    }
}

static void watch(struct connection *c, int wants_write) {
    if (c->wants_write == wants_write) return;
    struct epoll_event event = {.events = EPOLLIN | (wants_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->wants_write = wants_write;
}

static void write_out(struct connection *c) {
    while (c->out_from < c->out_to) {
        ssize_t n = send(c->fd, c->out + c->out_from, c->out_to - c->out_from, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) die("send: %s", strerror(errno));
        c->out_from += (size_t)n;
    }
    if (c->out_from == c->out_to) c->out_from = c->out_to = 0;
    else if (c->out_from > 0) {
        memmove(c->out, c->out + c->out_from, c->out_to - c->out_from);
        c->out_to -= c->out_from;
        c->out_from = 0;
    }
    watch(c, c->out_to > 0);
}

/* Return which call a line answers; end the run when the answer is no success. */
static uint32_t answered_call(struct connection *c, const char *line, size_t bytes) {
    if (mode == PUT) {
        if (bytes < 9 || memcmp(line, "INSERTED ", 9) != 0) die("answer: %.*s", (int)bytes, line);
        return c->order[c->answered % in_flight];
    }
    const char *id = memmem(line, bytes, "\"id\":", 5);
    if (!id || !memmem(line, bytes, "\"s\":\"end\"", 9)) die("answer: %.*s", (int)bytes, line);
    unsigned long call = strtoul(id + 5, NULL, 10);
    if (call >= next_call || took[call]) die("answer to no open call: %.*s", (int)bytes, line);
    return (uint32_t)call;
}

static void take_answers(struct connection *c) {
    char *line = c->in, *end = c->in + c->in_used, *newline;
    uint64_t now = now_ns();
    uint32_t count = 0;
    while ((newline = memchr(line, '\n', (size_t)(end - line)))) {
        uint32_t call = answered_call(c, line, (size_t)(newline - line));
        uint64_t ns = now - sent_at[call];
        took[call] = ns == 0 ? 1 : ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
        c->answered++;
        count++;
        line = newline + 1;
    }
    c->in_used = (size_t)(end - line);
    memmove(c->in, line, c->in_used);
    answered_total += count;
}

static void read_in(struct connection *c) {
    ssize_t n = recv(c->fd, c->in + c->in_used, READ_BYTES - c->in_used, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("the server closed a connection: %s", n ? strerror(errno) : "end of file");
    c->in_used += (size_t)n;
    take_answers(c);
    if (c->in_used == READ_BYTES) die("an answer is longer than %d bytes", READ_BYTES);
    build_calls(c);
    write_out(c);
}

static struct connection *open_connection(int port) {
    struct connection *c = calloc(1, sizeof *c);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    c->out = malloc(in_flight * (middle_bytes + LINE_EXTRA)); /* never more calls than may be in flight */
    c->order = calloc(in_flight, sizeof *c->order);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    return c;
}

static void run(struct connection **all, int connections) {
    struct epoll_event events[MAX_EVENTS];
    int wait_ms = connections * (uint64_t)in_flight == 1 ? 0 : rate > 0 ? 1 : 1000;
    uint64_t deadline = now_ns() + (uint64_t)LIMIT_S * 1000000000u;
    for (int turn = 0; answered_total < total; turn++) {
        int n = epoll_wait(poller, events, MAX_EVENTS, wait_ms);
        if (now_ns() > deadline) die("not done in %d s: %u of %u answered", LIMIT_S, answered_total, total);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) write_out(c);
            if (events[i].events & ~(uint32_t)EPOLLOUT) read_in(c);
        }
        for (int i = 0; rate > 0 && i < connections; i++) {
            struct connection *c = all[(turn + i) % connections];
            build_calls(c);
            write_out(c);
        }
    }
}

static int by_size(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return a < b ? -1 : a > b;
}

int main(int argc, char **argv) {
    if (argc != 10) die("usage: load echo|insert|put PORT CONNECTIONS IN_FLIGHT TOTAL BYTES CORE TYPE RATE");
    if (!strcmp(argv[1], "echo")) mode = ECHO;
    else if (!strcmp(argv[1], "insert")) mode = INSERT;
    else if (!strcmp(argv[1], "put")) mode = PUT;
    else die("unknown mode %s", argv[1]);
    int port = atoi(argv[2]), connections = atoi(argv[3]);
    in_flight = (uint32_t)atoi(argv[4]);
    total = (uint32_t)atol(argv[5]);
    if (port < 1 || connections < 1 || in_flight < 1 || total < 1) die("PORT, CONNECTIONS, IN_FLIGHT and TOTAL start at 1");

    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET((size_t)atoi(argv[7]), &core);
    if (sched_setaffinity(0, sizeof core, &core)) die("cannot use core %s: %s", argv[7], strerror(errno));

    build_middle(atol(argv[6]), argv[8]);
    rate = atof(argv[9]);
    sent_at = calloc(total, sizeof *sent_at);
    took = calloc(total, sizeof *took);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct connection **all = calloc((size_t)connections, sizeof *all);
    for (int i = 0; i < connections; i++) all[i] = open_connection(port);

    uint64_t start = began = now_ns();
    for (int i = 0; i < connections; i++) {
        build_calls(all[i]);
        write_out(all[i]);
    }
    run(all, connections);
    uint64_t end = now_ns();
    double seconds = (double)(end - start) / 1e9;
    qsort(took, total, sizeof *took, by_size);
    printf("{\"count\":%u,\"seconds\":%.6f,\"rate\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"started_ns\":%llu,\"ended_ns\":%llu}\n", total,
           seconds, total / seconds, took[total / 2] / 1e3, took[(uint64_t)total * 99 / 100] / 1e3, (unsigned long long)start,
           (unsigned long long)end);
    return 0;
}
