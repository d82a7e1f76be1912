/*
 * limit: the least that a server on epoll and one thread can do, as the yardstick of the benchmark.
 *
 *     limit --port 8000 [--join] [--fault lose|double|damage|swap]
 *
 * A WebSocket server. What a client sends goes to all clients: one frame is built, and the same bytes are sent to each
 * connection with one send(). With --join the frames of everything that was readable in one turn of epoll are put
 * behind one another first, and each connection gets them with one send().
 * A client that connects with "?topic=7" listens to that topic alone; a message of such a client is published to every
 * topic, one after the other: a frame for each, found by the topic's name in a hash table, sent to its listeners.
 *
 * What a socket does not take waits in a buffer of at most 4 MiB; then the connection is dropped.
 * With --fault every 50th message is lost, doubled, damaged or sent after the next one, for the client that connected
 * last: to see whether the load generator notices.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

#define IN_BYTES (256 * 1024)
#define OUT_BYTES (4 * 1024 * 1024)
#define BUCKETS 16384

struct topic;
struct client {
    int fd;
    u32 index;
    bool open;
    struct topic *topic;
    u8 *in, *out;
    u32 in_len, in_cap, out_len, out_cap;
};
struct topic {
    char name[32];
    struct topic *next_in_bucket;
    struct client **listeners;
    u32 count, cap;
};

static struct client **everybody;
static u32 everybody_count, everybody_cap;
static struct topic *buckets[BUCKETS];
static struct topic **topics;
static u32 topic_count, topic_cap;
static int epoll_fd;
static bool join;
static const char *fault;
static u64 message_count;
static u8 joined[8 * 1024 * 1024];
static u32 joined_len;
static u8 input[IN_BYTES];

static void *grown(void *memory, size_t bytes) {
    memory = realloc(memory, bytes);
    if (!memory) exit(1);
    return memory;
}

/* ---- SHA-1 and base64, for the handshake ---- */
static u32 rotate(u32 x, int by) { return x << by | x >> (32 - by); }
static void sha1(const u8 *text, u32 len, u8 digest[20]) {
    u8 block[192] = {0};
    memcpy(block, text, len);
    block[len] = 0x80;
    u32 blocks = (len + 8) / 64 + 1;
    u64 bits = (u64)len * 8;
    for (int i = 0; i < 8; i++) block[blocks * 64 - 1 - (u32)i] = (u8)(bits >> (8 * i));
    u32 h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    for (u32 b = 0; b < blocks; b++) {
        u32 w[80];
        const u8 *at = block + b * 64;
        for (int i = 0; i < 16; i++, at += 4) w[i] = (u32)at[0] << 24 | (u32)at[1] << 16 | (u32)at[2] << 8 | at[3];
        for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        u32 v[5];
        memcpy(v, h, sizeof v);
        for (int i = 0; i < 80; i++) {
            u32 f, k;
            if (i < 20) f = (v[1] & v[2]) | (~v[1] & v[3]), k = 0x5a827999;
            else if (i < 40) f = v[1] ^ v[2] ^ v[3], k = 0x6ed9eba1;
            else if (i < 60) f = (v[1] & v[2]) | (v[1] & v[3]) | (v[2] & v[3]), k = 0x8f1bbcdc;
            else f = v[1] ^ v[2] ^ v[3], k = 0xca62c1d6;
            u32 sum = rotate(v[0], 5) + f + v[4] + k + w[i];
            v[4] = v[3], v[3] = v[2], v[2] = rotate(v[1], 30), v[1] = v[0], v[0] = sum;
        }
        for (int i = 0; i < 5; i++) h[i] += v[i];
    }
    for (int i = 0; i < 20; i++) digest[i] = (u8)(h[i / 4] >> (24 - 8 * (i % 4)));
}
static void accept_value(const char *key, u32 len, char *to) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    u8 text[128], digest[21] = {0};
    memcpy(text, key, len);
    memcpy(text + len, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    sha1(text, len + 36, digest);
    for (int i = 0; i < 20; i += 3) {
        u32 three = (u32)digest[i] << 16 | (u32)digest[i + 1] << 8 | digest[i + 2];
        for (int k = 0; k < 4; k++) *to++ = letters[three >> (18 - 6 * k) & 63];
    }
    to[-1] = '=';
    *to = 0;
}

/* ---- clients and topics ---- */
static struct topic *topic_named(const char *name) {
    u32 hash = 2166136261u;
    for (const char *c = name; *c; c++) hash = (hash ^ (u8)*c) * 16777619u;
    struct topic **bucket = &buckets[hash % BUCKETS];
    for (struct topic *t = *bucket; t; t = t->next_in_bucket)
        if (strcmp(t->name, name) == 0) return t;
    struct topic *t = calloc(1, sizeof *t);
    if (!t) exit(1);
    snprintf(t->name, sizeof t->name, "%s", name);
    t->next_in_bucket = *bucket;
    *bucket = t;
    if (topic_count == topic_cap) topics = grown(topics, (topic_cap = topic_cap * 2 + 64) * sizeof *topics);
    topics[topic_count++] = t;
    return t;
}
static void register_client(struct client *c) {
    c->open = true;
    if (c->topic) {
        struct topic *t = c->topic;
        if (t->count == t->cap) t->listeners = grown(t->listeners, (t->cap = t->cap * 2 + 4) * sizeof *t->listeners);
        c->index = t->count;
        t->listeners[t->count++] = c;
        return;
    }
    if (everybody_count == everybody_cap)
        everybody = grown(everybody, (everybody_cap = everybody_cap * 2 + 64) * sizeof *everybody);
    c->index = everybody_count;
    everybody[everybody_count++] = c;
}
static void drop(struct client *c) {
    struct client **list = c->topic ? c->topic->listeners : everybody;
    u32 *count = c->topic ? &c->topic->count : &everybody_count;
    if (c->open) {
        list[c->index] = list[--*count];
        list[c->index]->index = c->index;
    }
    c->open = false;
    close(c->fd);
    c->fd = -1;
}
static void watch(struct client *c, u32 events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event);
}
static void deliver(struct client *c, const u8 *bytes, u32 n) {
    if (c->fd < 0) return;
    if (!c->out_len) {
        ssize_t done = send(c->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (done == (ssize_t)n) return;
        if (done < 0 && errno != EAGAIN) return; /* epoll reports it and the client is dropped there */
        if (done > 0) bytes += done, n -= (u32)done;
        watch(c, EPOLLIN | EPOLLOUT);
    }
    if (c->out_len + n > OUT_BYTES) {
        shutdown(c->fd, SHUT_RDWR);
        return;
    }
    if (c->out_len + n > c->out_cap) c->out = grown(c->out, c->out_cap = (c->out_len + n) * 2);
    memcpy(c->out + c->out_len, bytes, n);
    c->out_len += n;
}
static void flush_out(struct client *c) {
    ssize_t done = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done <= 0) return;
    memmove(c->out, c->out + done, c->out_len - (u32)done);
    c->out_len -= (u32)done;
    if (!c->out_len) watch(c, EPOLLIN);
}
static u32 build(u8 *to, int opcode, const u8 *payload, u32 n) {
    u32 at = 0;
    to[at++] = (u8)(0x80 | opcode);
    if (n < 126) to[at++] = (u8)n;
    else if (n < 65536) to[at++] = 126, to[at++] = (u8)(n >> 8), to[at++] = (u8)n;
    else {
        to[at++] = 127;
        for (int shift = 56; shift >= 0; shift -= 8) to[at++] = (u8)((u64)n >> shift);
    }
    memcpy(to + at, payload, n);
    return at + n;
}
static void to_everybody(const u8 *bytes, u32 n) {
    for (u32 i = 0; i < everybody_count; i++) deliver(everybody[i], bytes, n);
}
static void to_everybody_but_wrongly(u8 *frame, u32 n) {
    static u8 held[IN_BYTES + 16];
    static u32 held_len;
    struct client *victim = everybody[everybody_count - 1];
    for (u32 i = 0; i + 1 < everybody_count; i++) deliver(everybody[i], frame, n);
    bool now = ++message_count % 50 == 0;
    if (now && !strcmp(fault, "swap")) {
        memcpy(held, frame, held_len = n);
        return;
    }
    if (now && !strcmp(fault, "damage")) frame[n - 20] ^= 1;
    if (!now || strcmp(fault, "lose")) deliver(victim, frame, n);
    if (now && !strcmp(fault, "double")) deliver(victim, frame, n);
    if (held_len) deliver(victim, held, held_len);
    held_len = 0;
}
static void message(struct client *c, const u8 *payload, u32 n) {
    static u8 frame[IN_BYTES + 16];
    if (c->topic) {
        for (u32 t = 0; t < topic_count; t++) {
            struct topic *topic = topic_named(topics[t]->name);
            u32 len = build(frame, 1, payload, n);
            for (u32 i = 0; i < topic->count; i++) deliver(topic->listeners[i], frame, len);
        }
        return;
    }
    if (!join) {
        u32 len = build(frame, 1, payload, n);
        if (fault) to_everybody_but_wrongly(frame, len);
        else to_everybody(frame, len);
        return;
    }
    if (joined_len + n + 16 > sizeof joined) {
        to_everybody(joined, joined_len);
        joined_len = 0;
    }
    joined_len += build(joined + joined_len, 1, payload, n);
}

/* ---- bytes in ---- */
static u32 handshake(struct client *c, u8 *from, u32 n) {
    u8 *end = memmem(from, n, "\r\n\r\n", 4);
    if (!end) return 0;
    end[2] = 0;
    char *key = strcasestr((char *)from, "sec-websocket-key:");
    if (!key) return 0;
    key += 18;
    while (*key == ' ') key++;
    char accepted[32], answer[256];
    u32 key_len = (u32)strcspn(key, " \r\n");
    if (key_len > 64) return 0;
    accept_value(key, key_len, accepted);
    char *topic = strstr((char *)from, "?topic=");
    char *first_line = strstr((char *)from, "\r\n");
    if (topic && topic < first_line) {
        topic += 7;
        topic[strcspn(topic, " &\r\n")] = 0;
        c->topic = topic_named(topic);
    }
    int len = snprintf(answer, sizeof answer,
                       "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Accept: %s\r\n\r\n", accepted);
    register_client(c);
    deliver(c, (u8 *)answer, (u32)len);
    return (u32)(end - from) + 4;
}
static u32 take_frames(struct client *c, u8 *from, u32 n) {
    u32 at = 0;
    while (n - at >= 6 && c->fd >= 0) {
        u32 len = from[at + 1] & 127, head = 6;
        if (!(from[at + 1] & 128)) {
            shutdown(c->fd, SHUT_RDWR);
            return n;
        }
        if (len == 126) len = (u32)from[at + 2] << 8 | from[at + 3], head = 8;
        else if (len == 127) {
            if (n - at < 14) break;
            len = (u32)from[at + 6] << 24 | (u32)from[at + 7] << 16 | (u32)from[at + 8] << 8 | from[at + 9];
            head = 14;
        }
        if (n - at < head || n - at - head < len) break;
        u8 *payload = from + at + head, mask[4];
        memcpy(mask, payload - 4, 4);
        for (u32 i = 0; i < len; i++) payload[i] ^= mask[i & 3];
        int opcode = from[at] & 15;
        if (opcode == 1 || opcode == 2) message(c, payload, len);
        else if (opcode == 8) shutdown(c->fd, SHUT_RDWR);
        else if (opcode == 9 && len <= 125) {
            u8 pong[128];
            deliver(c, pong, build(pong, 10, payload, len));
        }
        at += head + len;
    }
    return at;
}
static void readable(struct client *c) {
    u32 had = c->in_len;
    if (had) memcpy(input, c->in, had);
    ssize_t got = recv(c->fd, input + had, IN_BYTES - had, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) drop(c);
        return;
    }
    u32 n = had + (u32)got, done = 0;
    if (!c->open) done = handshake(c, input, n);
    if (c->open) done += take_frames(c, input + done, n - done);
    c->in_len = n - done;
    if (!c->in_len) return;
    if (c->in_len > c->in_cap) c->in = grown(c->in, c->in_cap = c->in_len);
    memcpy(c->in, input + done, c->in_len);
}
static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct client *c = calloc(1, sizeof *c);
        if (!c) exit(1);
        c->fd = fd;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}
int main(int argc, char **argv) {
    int port = 8000;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--join")) join = true;
        else if (!strcmp(argv[i], "--port") && i + 1 < argc) port = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--fault") && i + 1 < argc) fault = argv[++i];
    }
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4096) != 0) {
        perror("limit");
        return 1;
    }
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL}, events[256];
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            struct client *c = events[i].data.ptr;
            if (!c) {
                accept_all(listener);
                continue;
            }
            if (c->fd >= 0 && events[i].events & EPOLLOUT) flush_out(c);
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
        if (joined_len) to_everybody(joined, joined_len);
        joined_len = 0;
    }
}
