/* An HTTP server on a listener that the host has opened (WASI preview 1): GET / says who answers, POST /echo sends the
 * body back. One connection after another; it ends when the listener is closed. */

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wasi/api.h>

enum { HEAD_LENGTH_MAX = 16384, CHUNK = 65536, DESCRIPTORS_MAX = 64 };

/* Pre-opened listeners come after the pre-opened directories. */
static int find_listener(void) {
    for (int descriptor = 3; descriptor < DESCRIPTORS_MAX; descriptor++) {
        __wasi_fdstat_t status;
        if (__wasi_fd_fdstat_get(descriptor, &status) != 0)
            return -1;
        if (status.fs_filetype == __WASI_FILETYPE_SOCKET_STREAM)
            return descriptor;
    }
    return -1;
}

static int send_all(int client, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = send(client, bytes, length, 0);
        if (sent < 0)
            return -1;
        bytes += sent;
        length -= (size_t)sent;
    }
    return 0;
}

static int respond(int client, const char *status, size_t length, const char *body) {
    char head[256];
    int size = snprintf(head, sizeof head, "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n", status, length);
    return send_all(client, head, (size_t)size) != 0 || (body && send_all(client, body, length) != 0) ? -1 : 0;
}

static size_t content_length(const char *head) {
    for (const char *line = strchr(head, '\n'); line; line = strchr(line + 1, '\n'))
        if (strncasecmp(line + 1, "content-length:", 15) == 0)
            return (size_t)strtoull(line + 16, NULL, 10);
    return 0;
}

static int echo(int client, const char *begun, size_t have, size_t length) {
    static char chunk[CHUNK];
    if (respond(client, "200 OK", length, NULL) != 0)
        return -1;
    if (have > length)
        have = length;
    if (send_all(client, begun, have) != 0)
        return -1;
    for (size_t left = length - have; left > 0;) {
        ssize_t got = recv(client, chunk, left < CHUNK ? left : CHUNK, 0);
        if (got <= 0 || send_all(client, chunk, (size_t)got) != 0)
            return -1;
        left -= (size_t)got;
    }
    return 0;
}

static int answer(int client) {
    static char head[HEAD_LENGTH_MAX + 1];
    size_t have = 0;
    char *end = NULL;
    while (!end) {
        if (have == HEAD_LENGTH_MAX)
            return respond(client, "431 Request Header Fields Too Large", 0, "");
        ssize_t got = recv(client, head + have, HEAD_LENGTH_MAX - have, 0);
        if (got <= 0)
            return -1;
        have += (size_t)got;
        head[have] = 0;
        end = strstr(head, "\r\n\r\n");
    }
    char *body = end + 4;
    if (strncmp(head, "POST /echo ", 11) == 0)
        return echo(client, body, have - (size_t)(body - head), content_length(head));
    if (strncmp(head, "GET / ", 6) != 0)
        return respond(client, "404 Not Found", 0, "");
    const char *name = getenv("POD_NAME");
    char text[256];
    int length = snprintf(text, sizeof text, "hello from c at %s\n", name ? name : "nobody");
    return respond(client, "200 OK", (size_t)length, text);
}

int main(void) {
    int listener = find_listener();
    if (listener < 0) {
        fprintf(stderr, "no listener was given\n");
        return 1;
    }
    printf("listening on descriptor %d\n", listener);
    fflush(stdout);
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0) {
            if (errno == EAGAIN) {
                struct pollfd waiting = {.fd = listener, .events = POLLIN};
                poll(&waiting, 1, -1);
                continue;
            }
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            printf("no more connections: %s\n", strerror(errno));
            return 0;
        }
        answer(client);
        shutdown(client, SHUT_WR);
        close(client);
    }
}
