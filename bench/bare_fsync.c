/* What the disk gives to one writer that flushes each record: the bound of serial inserts.
 *
 *   bare_fsync FOLDER COUNT BYTES append|allocated [CORE]
 *
 * Appends COUNT records of BYTES to a file in FOLDER, one that grows or one that was allocated before, fdatasync after each.
 * CORE is kept busy meanwhile, as bench/load.c does with one call in flight: that slows down flushes, the more so where the
 * disk's interrupts go to it. Prints one JSON object. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    perror(what);
    exit(1);
}

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_size(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

/* Start a process that keeps a core busy for as long as this one lives; return its pid. */
static pid_t busy(int number) {
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET((size_t)number, &core);
    if (sched_setaffinity(0, sizeof core, &core)) die("sched_setaffinity");
    struct epoll_event event;
    for (int poller = epoll_create1(EPOLL_CLOEXEC);;) epoll_wait(poller, &event, 1, 0);
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 6) {
        fprintf(stderr, "usage: bare_fsync FOLDER COUNT BYTES append|allocated [CORE]\n");
        return 2;
    }
    long count = atol(argv[2]), bytes = atol(argv[3]);

    char *record = malloc((size_t)bytes);
    memset(record, 'x', (size_t)bytes);
    double *took = calloc((size_t)count, sizeof *took);
    if (chdir(argv[1])) die(argv[1]);
    int fd = open("bare_fsync.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0) die("open");
    if (!strcmp(argv[4], "allocated") && (errno = posix_fallocate(fd, 0, count * bytes))) die("posix_fallocate");
    if (fsync(fd)) die("fsync");
    pid_t neighbour = argc == 6 ? busy(atoi(argv[5])) : 0;

    double start = now_s(), before = start;
    for (long i = 0; i < count; i++) {
        if (write(fd, record, (size_t)bytes) != bytes) die("write");
        if (fdatasync(fd)) die("fdatasync");
        double after = now_s();
        took[i] = after - before;
        before = after;
    }
    double seconds = before - start;
    if (neighbour) {
        kill(neighbour, SIGKILL);
        waitpid(neighbour, NULL, 0);
    }
    unlink("bare_fsync.data");
    qsort(took, (size_t)count, sizeof *took, by_size);
    printf("{\"count\":%ld,\"seconds\":%.6f,\"rate\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n", count, seconds, (double)count / seconds,
           took[count / 2] * 1e6, took[count * 99 / 100] * 1e6);
    return 0;
}
