/* The least that a server of durable jobs has to do, as the bound of the latency that bench/latency.c measures.
 *
 *   bare_server FOLDER FIFO
 *
 * Listens on a port of loopback, which it prints. For each line that its one client sends: appends it to an allocated file in
 * FOLDER, flushes that, answers, and writes the time into FIFO. If the line waits for its job's end, then instead of the last
 * two: writes two pages as a commit of SQLite's does, where the file has been written before, flushes them, and answers. Ends
 * with its client. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { FILE_BYTES = 1 << 24, LINE_BYTES = 1024, WAL_BYTES = 1 << 22, FRAME_BYTES = 24, PAGE_BYTES = 4096, PAGES = 2 };

static const char answer[] = "{\"v\":1,\"id\":1,\"e\":null,\"s\":\"end\",\"m\":\"\"}\n";
static const char ended[] = "{\"v\":1,\"id\":1,\"e\":null,\"s\":\"end\",\"m\":{\"id\":\"\",\"state\":\"success\"}}\n";

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int open_wal(const char *name) {
    static const char zeros[PAGE_BYTES];
    int file = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0) die(name);
    for (int bytes = 0; bytes < WAL_BYTES; bytes += PAGE_BYTES)
        if (write(file, zeros, PAGE_BYTES) != PAGE_BYTES) die(name);
    if (fsync(file)) die(name);
    return file;
}

static void commit(int wal) {
    static char page[PAGE_BYTES];
    static off_t at;
    if (at + PAGES * (FRAME_BYTES + PAGE_BYTES) > WAL_BYTES) at = 0;
    for (int n = 0; n < PAGES; n++) {
        page[0]++;
        if (pwrite(wal, page, FRAME_BYTES, at) != FRAME_BYTES) die("commit");
        if (pwrite(wal, page, PAGE_BYTES, at + FRAME_BYTES) != PAGE_BYTES) die("commit");
        at += FRAME_BYTES + PAGE_BYTES;
    }
    if (fdatasync(wal)) die("commit");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: bare_server FOLDER FIFO\n");
        return 2;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), stamps = open(argv[2], O_WRONLY | O_CLOEXEC);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1)) die("listen");
    if (stamps < 0) die(argv[2]);
    if (chdir(argv[1])) die(argv[1]);
    int file = open("bare_server.data", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (file < 0 || (errno = posix_fallocate(file, 0, FILE_BYTES)) || fsync(file)) die("bare_server.data");
    int wal = open_wal("bare_server.wal");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);

    int client = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (client < 0) die("accept");
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    char line[LINE_BYTES], stamp[32];
    ssize_t bytes;
    while ((bytes = recv(client, line, sizeof line, 0)) > 0) {
        struct timespec t;
        if (write(file, line, (size_t)bytes) != bytes || fdatasync(file)) die("bare_server.data");
        if (memmem(line, (size_t)bytes, "\"wait\"", 6)) {
            commit(wal);
            if (send(client, ended, sizeof ended - 1, MSG_NOSIGNAL) < 0) die("send");
            continue;
        }
        if (send(client, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0) die("send");
        clock_gettime(CLOCK_MONOTONIC, &t);
        int length = sprintf(stamp, "%llu\n", (unsigned long long)t.tv_sec * 1000000000u + (unsigned long long)t.tv_nsec);
        if (write(stamps, stamp, (size_t)length) != length) die("stamps");
    }
    unlink("bare_server.data");
    unlink("bare_server.wal");
    return 0;
}
