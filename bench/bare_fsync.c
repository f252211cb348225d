/* What the disk gives to one writer that flushes each record: the bound of serial inserts.
 *
 *   bare_fsync FOLDER COUNT BYTES append|allocated
 *
 * Appends COUNT records of BYTES to a file in FOLDER, one that grows or one that was allocated before, fdatasync after each.
 * Prints one JSON object. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
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

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "usage: bare_fsync FOLDER COUNT BYTES append|allocated\n");
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

    double start = now_s(), before = start;
    for (long i = 0; i < count; i++) {
        if (write(fd, record, (size_t)bytes) != bytes) die("write");
        if (fdatasync(fd)) die("fdatasync");
        double after = now_s();
        took[i] = after - before;
        before = after;
    }
    double seconds = before - start;
    unlink("bare_fsync.data");
    qsort(took, (size_t)count, sizeof *took, by_size);
    printf("{\"count\":%ld,\"seconds\":%.6f,\"rate\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f}\n", count, seconds, (double)count / seconds,
           took[count / 2] * 1e6, took[count * 99 / 100] * 1e6);
    return 0;
}
