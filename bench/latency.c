/* How long an idle server takes from an insert to the handler's first line.
 *
 *   latency PORT FIFO COUNT REST_US CORE
 *
 * Inserts COUNT jobs of type `stamp` (bench/handlers.py), one at a time with REST_US between them, in which the finish is
 * stored and the server falls idle. Sleeps until the handler has begun, so that the server has the machine to itself. Prints
 * one JSON object; times in microseconds, from before the insert's send to the time the handler wrote into FIFO.
 *
 * With `work` in the place of FIFO the jobs are run here, by a worker with a `work` call on a connection of its own, and a time
 * ends when that has read the run. With `wait` the inserts wait for their jobs, of type `noop`, and a time ends with that. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LINE_BYTES = 1024, SETTLE_US = 200000 }; /* the server has read what the worker asked for */

static const char work[] = "{\"id\":1,\"n\":\"work\",\"m\":{\"types\":[\"stamp\"],\"room\":10}}\n";
static const char hot[] = "{\"v\":1,\"id\":1,\"n\":\"insert\",\"m\":{\"type\":\"noop\",\"wait\":10}}\n";
static const char call[] = "{\"v\":1,\"id\":1,\"n\":\"insert\",\"m\":{\"type\":\"stamp\"}}\n";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Read up to a newline, which becomes the end of `line`. */
static void read_line(int fd, char *line) {
    for (size_t used = 0; used < LINE_BYTES;) {
        ssize_t n = read(fd, line + used, LINE_BYTES - used);
        if (n <= 0) die("read");
        if (line[(used += (size_t)n) - 1] == '\n') {
            line[used - 1] = 0;
            return;
        }
    }
    errno = EMSGSIZE;
    die("read");
}

static int open_connection(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static int by_size(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* Report that the run in `line` went well, and read the answer. */
static void finish(int worker, char *line) {
    char *run = strstr(line, "\"run\":\""), *end = run ? strchr(run + 7, '"') : NULL, report[LINE_BYTES];
    if (!end) {
        fprintf(stderr, "no run: %s\n", line);
        exit(1);
    }
    int size = snprintf(report, sizeof report, "{\"id\":2,\"n\":\"finish\",\"m\":{\"report\":\"ok\",%.*s\"}}\n", (int)(end - run), run);
    if (send(worker, report, (size_t)size, MSG_NOSIGNAL) != size) die("send");
    read_line(worker, line);
    if (!strstr(line, "true")) {
        fprintf(stderr, "answer: %s\n", line);
        exit(1);
    }
}

/* Insert a job and read until it has ended; return how long that took. */
static uint64_t wait_for_job(int server, char *line) {
    uint64_t sent = now_ns();
    if (send(server, hot, sizeof hot - 1, MSG_NOSIGNAL) != sizeof hot - 1) die("send");
    do
        read_line(server, line); /* the id, then the end; or both */
    while (!strstr(line, "\"s\":\"end\""));
    if (!strstr(line, "\"success\"")) {
        fprintf(stderr, "answer: %s\n", line);
        exit(1);
    }
    return now_ns() - sent;
}

/* Insert a job and wait until it begins; return how long that took, and report it. */
static uint64_t wait_for_run(int server, int stamps, int is_worker, char *line) {
    uint64_t sent = now_ns(), took;
    if (send(server, call, sizeof call - 1, MSG_NOSIGNAL) != sizeof call - 1) die("send");
    read_line(stamps, line);
    took = (is_worker ? now_ns() : strtoull(line, NULL, 10)) - sent;
    if (is_worker) finish(stamps, line);
    read_line(server, line);
    if (!strstr(line, "\"s\":\"end\"")) {
        fprintf(stderr, "answer: %s\n", line);
        exit(1);
    }
    return took;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: latency PORT FIFO COUNT REST_US CORE\n");
        return 2;
    }
    long count = atol(argv[3]);
    uint64_t *took = calloc((size_t)count, sizeof *took);
    char line[LINE_BYTES];
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET((size_t)atoi(argv[5]), &core);
    if (sched_setaffinity(0, sizeof core, &core)) die("sched_setaffinity");
    int is_worker = !strcmp(argv[2], "work"), is_hot = !strcmp(argv[2], "wait"), server = open_connection(atoi(argv[1]));
    int stamps = is_hot ? 0 : is_worker ? open_connection(atoi(argv[1])) : open(argv[2], O_RDWR | O_CLOEXEC);
    if (stamps < 0) die(argv[2]);
    if (is_worker && send(stamps, work, sizeof work - 1, MSG_NOSIGNAL) != sizeof work - 1) die("send");
    if (is_worker) usleep(SETTLE_US);

    for (long i = 0; i < count; i++) {
        took[i] = is_hot ? wait_for_job(server, line) : wait_for_run(server, stamps, is_worker, line);
        usleep((useconds_t)atol(argv[4]));
    }
    qsort(took, (size_t)count, sizeof *took, by_size);
    printf("{\"count\":%ld,\"p50_us\":%.1f,\"p99_us\":%.1f}\n", count, (double)took[count / 2] / 1e3, (double)took[count * 99 / 100] / 1e3);
    return 0;
}
