/*
 * loadgen: opens many WebSocket connections, lets some of them publish, and counts what every connection receives.
 *
 *     loadgen --port 8000 --connections 1000 [options]       then commands on standard input, one a line:
 *
 *     saturate window=32 publishers=4 warm_s=0.5 duration_s=3     32 messages in flight, spread over 4 publishers
 *     single warm_s=0.5 duration_s=3                 one message in flight: the next when every client has the last one
 *     rate per_s=10 warm_s=0.5 duration_s=3          a fixed rate, whatever the server does
 *     idle duration_s=3                              nothing is sent
 *     quit
 *
 * Every line of standard output is a JSON object: "connected", then "begin", "end" and "result" for each command.
 * "begin" and "end" frame the time that is measured; "result" comes after everything that was sent has arrived or the
 * server had `--drain` seconds for it.
 *
 * A message is one JSON object of --size bytes. Inside is a token, which survives any server that encodes the JSON anew:
 *
 *     @#PPPP.SSSSSSSSSS.TTTTTTTTTTTTTTTTTTTT.ffff...f#@      publisher, sequence number, time it was due (ns), filler
 *
 * Each client knows which sequence number of each publisher comes next, so that a message that is missing, doubled or
 * out of order is counted, and it compares the filler byte by byte. There is no sampling.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>
#ifndef NO_ZLIB
#include <zlib.h>
#endif

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;

#define MAX_PUBLISHERS 64
#define MAX_THREADS 16
#define PROBE 9999 /* "publisher" of the messages that only prove that everybody listens */
#define RECV_BYTES (512 * 1024)
#define HISTOGRAM_SUB 256
#define HISTOGRAM_SLOTS (40 * HISTOGRAM_SUB)

enum protocol { RAW, SOCKETIO, NATS, MQTT };
enum state { CONNECTING, HANDSHAKE, GREETING, JOINING, READY, STUCK, GONE };
enum mode { IDLE, SATURATE, SINGLE, RATE, PROBING };

struct connection {
    int fd;
    u32 number;
    enum state state;
    int publisher; /* -1: only listens */
    bool deflate, no_takeover, probed, in_text;
    u32 flight;      /* publisher: sent and not yet come back */
    u8 *frames;      /* bytes of an incomplete frame */
    u32 frames_len, frames_cap;
    u8 *stream;      /* payload bytes of an incomplete message (protocols that are streams, fragments) */
    u32 stream_len, stream_cap;
    u8 *out;         /* bytes that the socket did not take */
    u32 out_len, out_cap;
    u32 *next;       /* per publisher: the sequence number that comes next */
    double gone_s;
#ifndef NO_ZLIB
    z_stream *inflater;
#endif
};

struct thread {
    pthread_t id;
    int number, epoll, wake, timer;
    struct connection **mine;
    u32 count, opened, under_way;
    u8 *buffer;
    u8 *scratch;
    u8 memo_in[4096];
    u32 memo_in_len, memo_out_len;
    u8 memo_out[65536];
    u64 seen_generation;
    _Atomic u64 ready, deliveries, disorder, gaps, corrupt, closed, returned;
    u32 *histogram;
    u64 latency_count, latency_max;
    double latency_sum;
};

static struct {
    const char *host, *path, *subprotocol;
    int port, connections, publishers, threads, size, stuck, concurrency;
    bool deflate, topics, spin;
    double drain_s, connect_s;
    enum protocol protocol;
    int cpus[MAX_THREADS], cpu_count;
} options = {.host = "127.0.0.1", .path = "/ws", .port = 8000, .connections = 100, .publishers = 32, .threads = 1,
             .size = 200, .concurrency = 64, .drain_s = 10, .connect_s = 120};

static struct connection *connections;
static struct thread threads[MAX_THREADS];
static _Atomic u64 sent[MAX_PUBLISHERS];
static _Atomic u64 generation, probed_count;
static _Atomic u64 single_left;
static _Atomic int mode = IDLE, sending, recording, stopping;
static int window, active, good;
static double rate_per_s;
static u64 rate_start_ns;
static _Atomic u64 rate_sent;
static int token_len, filler_len;
static char filler[70000];
static double started_at;

static u64 now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}
static double now_s(void) { return (double)now_ns() / 1e9; }
static void die(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(1);
}
static void *take(size_t bytes) {
    void *memory = calloc(1, bytes);
    if (!memory) die("memory");
    return memory;
}
static void append(u8 **to, u32 *len, u32 *cap, const u8 *from, u32 n) {
    if (*len + n > *cap) {
        *cap = (*len + n) * 2;
        *to = realloc(*to, *cap);
        if (!*to) die("memory");
    }
    memcpy(*to + *len, from, n);
    *len += n;
}
static void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
    fflush(stdout);
}

/* ---- latency: a histogram with 256 steps an octave, so at most 0.4 % wrong, and mergeable ---- */
static u32 slot_of(u64 ns) {
    if (ns < HISTOGRAM_SUB) return (u32)ns;
    int octave = 63 - __builtin_clzll(ns) - 8;
    u32 slot = (u32)((octave + 1) * HISTOGRAM_SUB + (int)((ns >> octave) - HISTOGRAM_SUB));
    return slot < HISTOGRAM_SLOTS ? slot : HISTOGRAM_SLOTS - 1;
}
static double slot_us(u32 slot) {
    if (slot < HISTOGRAM_SUB) return slot / 1e3;
    u32 octave = slot / HISTOGRAM_SUB - 1;
    return (double)((u64)(slot % HISTOGRAM_SUB + HISTOGRAM_SUB) << octave) / 1e3;
}

/* ---- what is sent ---- */
static int token(char *to, int publisher, u64 sequence, u64 due_ns) {
    int n = sprintf(to, "@#%04d.%010llu.%020llu.", publisher, (unsigned long long)sequence, (unsigned long long)due_ns);
    memcpy(to + n, filler, (size_t)filler_len);
    memcpy(to + n + filler_len, "#@", 2);
    return n + filler_len + 2;
}
static u32 frame(u8 *to, int opcode, const char *payload, u32 n, u32 key) {
    u32 at = 0;
    to[at++] = (u8)(0x80 | opcode);
    if (n < 126) to[at++] = (u8)(0x80 | n);
    else if (n < 65536) {
        to[at++] = 0x80 | 126;
        to[at++] = (u8)(n >> 8);
        to[at++] = (u8)n;
    } else {
        to[at++] = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8) to[at++] = (u8)((u64)n >> shift);
    }
    u8 mask[4] = {(u8)(key >> 24), (u8)(key >> 16), (u8)(key >> 8), (u8)key};
    memcpy(to + at, mask, 4);
    at += 4;
    for (u32 i = 0; i < n; i++) to[at + i] = (u8)payload[i] ^ mask[i & 3];
    return at + n;
}
static void interest(struct thread *thread, struct connection *c, u32 events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(thread->epoll, EPOLL_CTL_MOD, c->fd, &event);
}
static void write_out(struct thread *thread, struct connection *c, const u8 *bytes, u32 n) {
    if (c->state == GONE) return;
    if (!c->out_len) {
        ssize_t done = send(c->fd, bytes, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (done == (ssize_t)n) return;
        if (done > 0) {
            bytes += done;
            n -= (u32)done;
        }
        interest(thread, c, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
    }
    append(&c->out, &c->out_len, &c->out_cap, bytes, n);
}
static u32 wrap(u8 *to, const char *json, u32 json_len, int topic) {
    static _Thread_local char body[80000];
    char subject[32];
    u32 key = 0x5bd1e995u * (json_len + (u32)topic + 7);
    int n;
    switch (options.protocol) {
    case SOCKETIO:
        n = sprintf(body, "42[\"message\",");
        memcpy(body + n, json, json_len);
        body[n + (int)json_len] = ']';
        return frame(to, 1, body, (u32)n + json_len + 1, key);
    case NATS:
        if (topic < 0) n = sprintf(body, "PUB bench %u\r\n", json_len);
        else n = sprintf(body, "PUB bench.%d %u\r\n", topic, json_len);
        memcpy(body + n, json, json_len);
        memcpy(body + n + (int)json_len, "\r\n", 2);
        return frame(to, 2, body, (u32)n + json_len + 2, key);
    case MQTT: {
        int subject_len = topic < 0 ? sprintf(subject, "bench") : sprintf(subject, "bench/%d", topic);
        u32 rest = 2 + (u32)subject_len + json_len;
        n = 0;
        body[n++] = 0x30;
        do {
            body[n++] = (char)((rest & 127) | (rest > 127 ? 128 : 0));
            rest >>= 7;
        } while (rest);
        body[n++] = (char)(subject_len >> 8);
        body[n++] = (char)subject_len;
        memcpy(body + n, subject, (size_t)subject_len);
        n += subject_len;
        memcpy(body + n, json, json_len);
        return frame(to, 2, body, (u32)n + json_len, key);
    }
    default: return frame(to, 1, json, json_len, key);
    }
}
static void publish(struct thread *thread, struct connection *c, int publisher, u64 sequence, u64 due_ns) {
    static _Thread_local char json[70000];
    int n = sprintf(json, "{\"type\":\"bench\",\"data\":\"");
    n += token(json + n, publisher, sequence, due_ns);
    n += sprintf(json + n, "\"}");
    /* A server with topics of its own is asked once and publishes to every topic; a broker has no such command. */
    bool each = options.topics && (options.protocol == NATS || options.protocol == MQTT);
    int messages = each ? options.connections : 1;
    static _Thread_local u8 *bytes;
    static _Thread_local u32 cap;
    u32 need = (u32)messages * ((u32)n + 128);
    if (need > cap) {
        free(bytes);
        bytes = take(cap = need);
    }
    u32 len = 0;
    for (int i = 0; i < messages; i++) len += wrap(bytes + len, json, (u32)n, each ? i : -1);
    write_out(thread, c, bytes, len);
}
static void publish_next(struct thread *thread, struct connection *c) {
    if (!atomic_load_explicit(&sending, memory_order_relaxed)) return;
    u64 sequence = atomic_fetch_add_explicit(&sent[c->publisher], 1, memory_order_relaxed);
    c->flight++;
    publish(thread, c, c->publisher, sequence, now_ns());
}

/* ---- what is received ---- */
static void wake_all(void) {
    u64 one = 1;
    for (int i = 0; i < options.threads; i++)
        if (write(threads[i].wake, &one, 8) != 8) continue;
}
static void delivered(struct thread *thread, struct connection *c, int publisher, u64 sequence, u64 due_ns) {
    if (publisher == PROBE) {
        if (!c->probed) {
            c->probed = true;
            atomic_fetch_add(&probed_count, 1);
        }
        return;
    }
    u32 expected = c->next[publisher];
    if ((u32)sequence < expected) {
        atomic_fetch_add_explicit(&thread->disorder, 1, memory_order_relaxed);
        return;
    }
    if ((u32)sequence > expected) atomic_fetch_add_explicit(&thread->gaps, sequence - expected, memory_order_relaxed);
    c->next[publisher] = (u32)sequence + 1;
    atomic_store_explicit(&thread->deliveries, thread->deliveries + 1, memory_order_relaxed);
    if (recording) {
        u64 latency = now_ns() - due_ns;
        thread->histogram[slot_of(latency)]++;
        thread->latency_count++;
        thread->latency_sum += (double)latency;
        if (latency > thread->latency_max) thread->latency_max = latency;
    }
    if (mode == SINGLE) {
        if (atomic_fetch_sub(&single_left, 1) == 1) wake_all();
    } else if (publisher == c->publisher) {
        c->flight--;
        if (mode == SATURATE) publish_next(thread, c);
    }
}
static u64 digits(const u8 *from, int n) {
    u64 value = 0;
    for (int i = 0; i < n; i++) {
        if (from[i] < '0' || from[i] > '9') return UINT64_MAX;
        value = value * 10 + (u64)(from[i] - '0');
    }
    return value;
}
/* Counts the tokens in a piece of payload and returns how many bytes of it are done with. */
static u32 scan(struct thread *thread, struct connection *c, const u8 *from, u32 n) {
    u32 at = 0;
    for (;;) {
        const u8 *found = memchr(from + at, '@', n - at);
        if (!found) return n;
        at = (u32)(found - from);
        if (n - at < 2) return at;
        if (found[1] != '#') {
            at++;
            continue;
        }
        if (n - at < (u32)token_len) return at;
        u64 publisher = digits(found + 2, 4), sequence = digits(found + 7, 10), due = digits(found + 18, 20);
        if (sequence == UINT64_MAX || due == UINT64_MAX ||
            (publisher != PROBE && publisher >= (u64)options.publishers) ||
            memcmp(found + 39, filler, (size_t)filler_len) != 0 || memcmp(found + token_len - 2, "#@", 2) != 0) {
            atomic_fetch_add(&thread->corrupt, 1);
            at += 2;
            continue;
        }
        delivered(thread, c, (int)publisher, sequence, due);
        at += (u32)token_len;
    }
}
static void ready(struct thread *thread, struct connection *c) {
    c->state = READY;
    atomic_fetch_add(&thread->ready, 1);
    thread->under_way--;
}
static void send_text(struct thread *thread, struct connection *c, int opcode, const char *text, u32 n) {
    u8 bytes[256];
    write_out(thread, c, bytes, frame(bytes, opcode, text, n, 0x1b873593u * (c->number + 1)));
}
/* The few things that each protocol says before and between messages. */
static void small_talk(struct thread *thread, struct connection *c, const u8 *payload, u32 n) {
    char text[64];
    switch (options.protocol) {
    case SOCKETIO:
        if (c->state == GREETING && n && payload[0] == '0') {
            c->state = JOINING;
            send_text(thread, c, 1, "40", 2);
        } else if (c->state == JOINING && n > 1 && payload[0] == '4' && payload[1] == '0') ready(thread, c);
        else if (n == 1 && payload[0] == '2') send_text(thread, c, 1, "3", 1);
        break;
    case NATS:
        if (c->state == GREETING && memmem(payload, n, "INFO ", 5)) {
            c->state = JOINING;
            int len = sprintf(text, "SUB bench 1\r\nPING\r\n");
            if (options.topics) len = sprintf(text, "SUB bench.%u 1\r\nPING\r\n", c->number);
            const char *hello = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"c\",\"version\":\"1\"}\r\n";
            send_text(thread, c, 2, hello, (u32)strlen(hello));
            send_text(thread, c, 2, text, (u32)len);
        } else if (c->state == JOINING && memmem(payload, n, "PONG", 4)) ready(thread, c);
        else if (n == 6 && memcmp(payload, "PING\r\n", 6) == 0) send_text(thread, c, 2, "PONG\r\n", 6);
        break;
    case MQTT:
        if (c->state == GREETING && n >= 4 && payload[0] == 0x20 && payload[3] == 0) {
            c->state = JOINING;
            int len = sprintf(text + 6, "bench");
            if (options.topics) len = sprintf(text + 6, "bench/%u", c->number);
            text[0] = (char)0x82;
            text[1] = (char)(len + 5);
            text[2] = 0;
            text[3] = 1;
            text[4] = 0;
            text[5] = (char)len;
            text[6 + len] = 0;
            send_text(thread, c, 2, text, (u32)len + 7);
        } else if (c->state == JOINING && n >= 4 && payload[0] == 0x90) ready(thread, c);
        break;
    default: break;
    }
}
static void lose(struct thread *thread, struct connection *c) {
    if (c->state == GONE) return;
    if (c->state == STUCK) c->gone_s = now_s() - started_at;
    else if (c->state == READY) atomic_fetch_add(&thread->closed, 1);
    else {
        /* refused or dropped during the handshake: once more would hide it, so say it and stop */
        fprintf(stderr, "loadgen: connection %u was lost during the handshake\n", c->number);
        exit(3);
    }
    c->state = GONE;
    epoll_ctl(thread->epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
}
#ifndef NO_ZLIB
/* Inflates one message. Servers that compress once send the same bytes to everybody: these are inflated once. */
static u32 inflated(struct thread *thread, struct connection *c, const u8 *payload, u32 n, u8 **result) {
    if (c->no_takeover && n == thread->memo_in_len && memcmp(payload, thread->memo_in, n) == 0) {
        *result = thread->memo_out;
        return thread->memo_out_len;
    }
    if (!c->inflater) {
        c->inflater = take(sizeof(z_stream));
        if (inflateInit2(c->inflater, -15) != Z_OK) die("inflate");
    }
    static const u8 tail[4] = {0, 0, 0xff, 0xff};
    z_stream *z = c->inflater;
    z->next_out = thread->scratch;
    z->avail_out = RECV_BYTES;
    z->next_in = (u8 *)(uintptr_t)payload;
    z->avail_in = n;
    int outcome = inflate(z, Z_SYNC_FLUSH);
    z->next_in = (u8 *)(uintptr_t)tail;
    z->avail_in = 4;
    if (outcome == Z_OK || outcome == Z_BUF_ERROR) outcome = inflate(z, Z_SYNC_FLUSH);
    if (outcome != Z_OK && outcome != Z_BUF_ERROR && outcome != Z_STREAM_END) {
        atomic_fetch_add(&thread->corrupt, 1);
        return 0;
    }
    u32 len = RECV_BYTES - z->avail_out;
    *result = thread->scratch;
    if (c->no_takeover) {
        inflateReset(z);
        if (n <= sizeof thread->memo_in && len <= sizeof thread->memo_out) {
            memcpy(thread->memo_in, payload, n);
            memcpy(thread->memo_out, thread->scratch, len);
            thread->memo_in_len = n;
            thread->memo_out_len = len;
        }
    }
    return len;
}
#endif
static void payload(struct thread *thread, struct connection *c, const u8 *bytes, u32 n) {
    if (c->state != READY) small_talk(thread, c, bytes, n);
    else if (n <= 8) small_talk(thread, c, bytes, n);
    if (c->state != READY) return;
    if (c->stream_len) {
        append(&c->stream, &c->stream_len, &c->stream_cap, bytes, n);
        u32 done = scan(thread, c, c->stream, c->stream_len);
        if (done) memmove(c->stream, c->stream + done, c->stream_len - done);
        c->stream_len -= done;
        return;
    }
    u32 done = scan(thread, c, bytes, n);
    if (done < n) append(&c->stream, &c->stream_len, &c->stream_cap, bytes + done, n - done);
}
static void control(struct thread *thread, struct connection *c, int opcode, const u8 *bytes, u32 n) {
    if (opcode == 9 && n <= 125) send_text(thread, c, 10, (const char *)bytes, n);
    if (opcode == 8) lose(thread, c);
}
/* Takes the frames of a piece of the byte stream and returns how many bytes of it are done with. */
static u32 take_frames(struct thread *thread, struct connection *c, const u8 *from, u32 n) {
    u32 at = 0;
    while (n - at >= 2 && c->state != GONE) {
        u32 head = 2, first = from[at], len = from[at + 1] & 127;
        if (from[at + 1] & 128) {
            atomic_fetch_add(&thread->corrupt, 1);
            return n;
        }
        if (len == 126) {
            if (n - at < 4) break;
            len = (u32)from[at + 2] << 8 | from[at + 3];
            head = 4;
        } else if (len == 127) {
            if (n - at < 10) break;
            len = (u32)from[at + 6] << 24 | (u32)from[at + 7] << 16 | (u32)from[at + 8] << 8 | from[at + 9];
            head = 10;
        }
        if (n - at < head + len) break;
        const u8 *bytes = from + at + head;
        int opcode = (int)(first & 15);
        if (opcode >= 8) control(thread, c, opcode, bytes, len);
        else if (first & 0x40) {
#ifndef NO_ZLIB
            u8 *plain = NULL;
            u32 plain_len = inflated(thread, c, bytes, len, &plain);
            if (plain_len) payload(thread, c, plain, plain_len);
#endif
        } else payload(thread, c, bytes, len);
        at += head + len;
    }
    return at;
}
/* The answer to the upgrade request: returns the bytes it took, 0 while it is incomplete. */
static u32 take_handshake(struct thread *thread, struct connection *c, const u8 *from, u32 n) {
    const u8 *end = memmem(from, n, "\r\n\r\n", 4);
    if (!end) return 0;
    u32 len = (u32)(end - from) + 4;
    char head[8192];
    u32 copied = len < sizeof head - 1 ? len : sizeof head - 1;
    memcpy(head, from, copied);
    head[copied] = 0;
    if (strncmp(head, "HTTP/1.1 101", 12) != 0 || !strstr(head, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")) {
        fprintf(stderr, "loadgen: the server refused the upgrade: %.300s\n", head);
        exit(3);
    }
    char *extension = strcasestr(head, "sec-websocket-extensions:");
    c->deflate = extension && strcasestr(extension, "permessage-deflate");
    c->no_takeover = c->deflate && strcasestr(extension, "server_no_context_takeover");
    if (options.protocol == RAW) {
        ready(thread, c);
        return len;
    }
    c->state = GREETING;
    if (options.protocol == MQTT) {
        char hello[64] = {0x10, 0, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0};
        int id = sprintf(hello + 14, "c%u", c->number);
        hello[13] = (char)id;
        hello[1] = (char)(12 + id);
        send_text(thread, c, 2, hello, 14 + (u32)id);
    }
    return len;
}
static void readable(struct thread *thread, struct connection *c) {
    u32 had = c->frames_len;
    u8 *buffer = thread->buffer;
    if (had) memcpy(buffer, c->frames, had);
    ssize_t got = recv(c->fd, buffer + had, RECV_BYTES - had, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) lose(thread, c);
        return;
    }
    u32 n = had + (u32)got, done = 0;
    if (c->state == HANDSHAKE) {
        done = take_handshake(thread, c, buffer, n);
        if (done && c->number >= (u32)options.connections && c->state == READY) {
            c->state = STUCK;
            interest(thread, c, EPOLLRDHUP);
            return;
        }
    }
    if (c->state != HANDSHAKE) done += take_frames(thread, c, buffer + done, n - done);
    c->frames_len = 0;
    if (done < n && c->state != GONE) append(&c->frames, &c->frames_len, &c->frames_cap, buffer + done, n - done);
}

/* ---- connecting ---- */
static void request(struct thread *thread, struct connection *c) {
    char text[1024], topic[64] = "";
    if (options.topics && options.protocol != NATS && options.protocol != MQTT)
        sprintf(topic, "%ctopic=%u", strchr(options.path, '?') ? '&' : '?', c->number);
    int n = snprintf(text, sizeof text,
                     "GET %s%s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s%s%s\r\n",
                     options.path, topic, options.host, options.port,
                     options.subprotocol ? "Sec-WebSocket-Protocol: " : "", options.subprotocol ? options.subprotocol : "",
                     options.subprotocol ? "\r\n" : "",
                     options.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    c->state = HANDSHAKE;
    interest(thread, c, EPOLLIN | EPOLLRDHUP);
    write_out(thread, c, (u8 *)text, (u32)n);
}
static void open_one(struct thread *thread, struct connection *c) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct linger linger = {1, 0}; /* leave no TIME_WAIT behind: thousands of them would disturb the next run */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    if (c->number >= (u32)options.connections) {
        int small = 8192;
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    inet_pton(AF_INET, options.host, &address.sin_addr);
    struct epoll_event event = {.events = EPOLLOUT | EPOLLRDHUP, .data.ptr = c};
    if (epoll_ctl(thread->epoll, EPOLL_CTL_ADD, c->fd, &event) != 0) die("epoll_ctl");
    thread->under_way++;
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS) die("connect");
}
static void open_more(struct thread *thread) {
    u32 limit = (u32)(options.concurrency / options.threads) + 1;
    while (thread->opened < thread->count && thread->under_way < limit) open_one(thread, thread->mine[thread->opened++]);
}
static void writable(struct thread *thread, struct connection *c) {
    if (c->state == CONNECTING) {
        request(thread, c);
        return;
    }
    ssize_t done = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done > 0) {
        memmove(c->out, c->out + done, c->out_len - (u32)done);
        c->out_len -= (u32)done;
    }
    if (!c->out_len) interest(thread, c, EPOLLIN | EPOLLRDHUP);
}

/* ---- phases ---- */
static void start_phase(struct thread *thread) {
    u64 current = atomic_load(&generation);
    if (current != thread->seen_generation) {
        thread->seen_generation = current;
        for (u32 i = 0; i < thread->count; i++) {
            struct connection *c = thread->mine[i];
            if (c->publisher < 0 || c->state != READY || mode != SATURATE) continue;
            if (c->publisher >= active) continue;
            int share = window / active + (c->publisher < window % active);
            for (int k = 0; k < share; k++) publish_next(thread, c);
        }
        if (thread->number == 0 && mode == RATE) {
            struct itimerspec at = {.it_value = {0, 1}};
            timerfd_settime(thread->timer, 0, &at, NULL);
        }
    }
    struct connection *first = &connections[0];
    if (thread->number != 0 || first->state != READY) return;
    if (mode == PROBING) publish(thread, first, PROBE, 0, now_ns());
    u64 zero = 0;
    if (mode == SINGLE && sending && atomic_compare_exchange_strong(&single_left, &zero, (u64)good)) {
        u64 sequence = atomic_fetch_add(&sent[0], 1);
        publish(thread, first, 0, sequence, now_ns());
    }
}
static void tick(struct thread *thread) {
    u64 expirations;
    if (read(thread->timer, &expirations, 8) != 8) return;
    if (mode != RATE || !sending) return;
    for (;;) {
        u64 due = rate_start_ns + (u64)((double)rate_sent * 1e9 / rate_per_s);
        if (due > now_ns()) {
            struct itimerspec at = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
            timerfd_settime(thread->timer, TFD_TIMER_ABSTIME, &at, NULL);
            return;
        }
        atomic_fetch_add(&rate_sent, 1);
        publish(thread, &connections[0], 0, atomic_fetch_add(&sent[0], 1), due);
    }
}
static void *run(void *argument) {
    struct thread *thread = argument;
    if (options.cpu_count) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(options.cpus[thread->number % options.cpu_count], &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    struct epoll_event events[512];
    open_more(thread);
    while (!stopping) {
        int n = epoll_wait(thread->epoll, events, 512, options.spin ? 0 : 1000);
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if ((void *)c == (void *)&thread->wake) {
                u64 count;
                if (read(thread->wake, &count, 8) == 8) start_phase(thread);
                continue;
            }
            if ((void *)c == (void *)&thread->timer) {
                tick(thread);
                continue;
            }
            if (c->state == GONE) continue;
            if (events[i].events & EPOLLOUT) writable(thread, c);
            if (c->state == STUCK) lose(thread, c);
            else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) readable(thread, c);
        }
        if (thread->opened < thread->count) open_more(thread);
    }
    return NULL;
}

/* ---- the main thread: commands, and sums over the threads ---- */
#define SUM(field) ({ u64 total_ = 0; for (int i_ = 0; i_ < options.threads; i_++) total_ += threads[i_].field; total_; })

static double cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}
static void sleep_until(double at) {
    struct timespec t = {(time_t)at, (long)((at - (double)(time_t)at) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) continue;
}
static u64 messages_sent(void) {
    u64 total = 0;
    for (int i = 0; i < options.publishers; i++) total += sent[i];
    return total;
}
static void reset_latency(void) {
    for (int i = 0; i < options.threads; i++) {
        memset(threads[i].histogram, 0, HISTOGRAM_SLOTS * sizeof(u32));
        threads[i].latency_count = threads[i].latency_max = 0;
        threads[i].latency_sum = 0;
    }
}
static double quantile(double part) {
    u64 total = SUM(latency_count), seen = 0, target = (u64)((double)total * part);
    for (u32 slot = 0; slot < HISTOGRAM_SLOTS; slot++) {
        for (int i = 0; i < options.threads; i++) seen += threads[i].histogram[slot];
        if (seen > target) return slot_us(slot);
    }
    return 0;
}
/* What each client still waits for, of all that was sent. */
static u64 outstanding(bool forget) {
    u64 total = 0;
    for (int i = 0; i < options.connections; i++) {
        struct connection *c = &connections[i];
        if (c->state != READY) continue;
        for (int p = 0; p < options.publishers; p++) {
            u64 count = sent[p];
            if (count > c->next[p]) total += count - c->next[p];
            if (forget) c->next[p] = (u32)count;
        }
    }
    return total;
}
static bool drain(void) {
    double deadline = now_s() + options.drain_s;
    u64 last = SUM(deliveries);
    while (outstanding(false)) {
        sleep_until(now_s() + 0.005);
        u64 current = SUM(deliveries);
        if (current != last) {
            last = current;
            double more = now_s() + options.drain_s / 2;
            if (more > deadline) deadline = more;
        }
        if (now_s() > deadline) return false;
    }
    return true;
}
static double number(const char *line, const char *name, double otherwise) {
    const char *found = strstr(line, name);
    return found && found[strlen(name)] == '=' ? strtod(found + strlen(name) + 1, NULL) : otherwise;
}
static void say_gone(void) {
    printf(",\"stuck_gone_s\":[");
    bool first = true;
    for (int i = options.connections; i < options.connections + options.stuck; i++) {
        if (connections[i].state != GONE) continue;
        printf("%s%.3f", first ? "" : ",", connections[i].gone_s);
        first = false;
    }
    printf("]");
}
static void phase(const char *line) {
    double warm_s = number(line, "warm_s", 0.5), duration_s = number(line, "duration_s", 3);
    int wanted = IDLE;
    if (strncmp(line, "saturate", 8) == 0) wanted = SATURATE;
    else if (strncmp(line, "single", 6) == 0) wanted = SINGLE;
    else if (strncmp(line, "rate", 4) == 0) wanted = RATE;
    window = (int)number(line, "window", 32);
    active = (int)number(line, "publishers", 4);
    if (active > options.publishers) active = options.publishers;
    rate_per_s = number(line, "per_s", 10);
    rate_sent = 0;
    single_left = 0;
    for (int i = 0; i < options.publishers; i++) connections[i].flight = 0;
    u64 gaps = SUM(gaps), disorder = SUM(disorder), corrupt = SUM(corrupt), closed = SUM(closed);
    started_at = now_s();
    rate_start_ns = now_ns();
    mode = wanted;
    sending = wanted != IDLE;
    atomic_fetch_add(&generation, 1);
    wake_all();
    sleep_until(started_at + warm_s);
    reset_latency();
    recording = 1;
    double begin = now_s(), cpu_begin = cpu_s();
    u64 deliveries_begin = SUM(deliveries), messages_begin = messages_sent();
    say("{\"event\":\"begin\"}");
    sleep_until(begin + duration_s);
    double end = now_s(), cpu_end = cpu_s();
    u64 deliveries_end = SUM(deliveries), messages_end = messages_sent();
    say("{\"event\":\"end\"}");
    recording = 0;
    sending = 0;
    double seconds = end - begin;
    bool drained = drain();
    u64 missing = outstanding(true) + SUM(gaps) - gaps;
    u64 count = SUM(latency_count);
    double sum_ns = 0;
    u64 max_ns = 0;
    for (int i = 0; i < options.threads; i++) {
        sum_ns += threads[i].latency_sum;
        if (threads[i].latency_max > max_ns) max_ns = threads[i].latency_max;
    }
    mode = IDLE;
    printf("{\"event\":\"result\",\"seconds\":%.6f,\"messages\":%llu,\"deliveries\":%llu,\"per_s\":%.1f,\"missing\":%llu,"
           "\"disorder\":%llu,\"corrupt\":%llu,\"closed\":%llu,\"drained\":%s,\"generator_cpu_s\":%.6f,\"threads\":%d,"
           "\"latency\":{\"count\":%llu,\"mean_us\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f}",
           seconds, (unsigned long long)(messages_end - messages_begin),
           (unsigned long long)(deliveries_end - deliveries_begin), (double)(deliveries_end - deliveries_begin) / seconds,
           (unsigned long long)missing, (unsigned long long)(SUM(disorder) - disorder),
           (unsigned long long)(SUM(corrupt) - corrupt), (unsigned long long)(SUM(closed) - closed),
           drained ? "true" : "false", cpu_end - cpu_begin, options.threads, (unsigned long long)count,
           count ? sum_ns / (double)count / 1e3 : 0, quantile(0.5), quantile(0.9), quantile(0.99), (double)max_ns / 1e3);
    if (options.stuck) say_gone();
    say("}");
}
/* Sends messages that count for nothing until every client has had one: from then on all of them listen. */
static bool probe(void) {
    double deadline = now_s() + options.connect_s;
    mode = PROBING;
    while (probed_count < (u64)good) {
        u64 before = probed_count;
        wake_all();
        double again = now_s() + 1;
        while (probed_count < (u64)good && now_s() < again) sleep_until(now_s() + 0.002);
        if (now_s() > deadline && probed_count == before) return false;
    }
    mode = IDLE;
    return true;
}
static void set_up(void) {
    good = options.connections;
    int total = options.connections + options.stuck;
    int fixed = (int)strlen("{\"type\":\"bench\",\"data\":\"\"}");
    filler_len = options.size - fixed - 41;
    if (filler_len < 0) filler_len = 0;
    token_len = 41 + filler_len;
    for (int i = 0; i < filler_len; i++) filler[i] = "fan-out to every client, "[i % 25];
    connections = take((size_t)total * sizeof *connections);
    if (options.publishers > options.connections) options.publishers = options.connections;
    if (options.threads > options.connections) options.threads = options.connections;
    for (int t = 0; t < options.threads; t++) {
        struct thread *thread = &threads[t];
        thread->number = t;
        thread->epoll = epoll_create1(EPOLL_CLOEXEC);
        thread->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        thread->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        thread->mine = take((size_t)total * sizeof *thread->mine);
        thread->buffer = take(RECV_BYTES);
        thread->scratch = take(RECV_BYTES);
        thread->histogram = take(HISTOGRAM_SLOTS * sizeof(u32));
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &thread->wake};
        epoll_ctl(thread->epoll, EPOLL_CTL_ADD, thread->wake, &event);
        event.data.ptr = &thread->timer;
        epoll_ctl(thread->epoll, EPOLL_CTL_ADD, thread->timer, &event);
    }
    for (int i = 0; i < total; i++) {
        struct connection *c = &connections[i];
        struct thread *thread = &threads[i % options.threads];
        c->number = (u32)i;
        c->publisher = i < options.publishers ? i : -1;
        c->next = take(sizeof(u32) * (size_t)options.publishers);
        thread->mine[thread->count++] = c;
    }
}
static void read_options(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--deflate")) options.deflate = true;
        else if (!strcmp(name, "--topics")) options.topics = true;
        else if (!strcmp(name, "--spin")) options.spin = true;
        else {
            i++;
            if (!strcmp(name, "--port")) options.port = atoi(value);
            else if (!strcmp(name, "--host")) options.host = value;
            else if (!strcmp(name, "--path")) options.path = value;
            else if (!strcmp(name, "--subprotocol")) options.subprotocol = value;
            else if (!strcmp(name, "--connections")) options.connections = atoi(value);
            else if (!strcmp(name, "--publishers")) options.publishers = atoi(value);
            else if (!strcmp(name, "--threads")) options.threads = atoi(value);
            else if (!strcmp(name, "--size")) options.size = atoi(value);
            else if (!strcmp(name, "--stuck")) options.stuck = atoi(value);
            else if (!strcmp(name, "--concurrency")) options.concurrency = atoi(value);
            else if (!strcmp(name, "--drain")) options.drain_s = atof(value);
            else if (!strcmp(name, "--cpu")) {
                if (options.cpu_count < MAX_THREADS) options.cpus[options.cpu_count++] = atoi(value);
            } else if (!strcmp(name, "--protocol")) {
                if (!strcmp(value, "socketio")) options.protocol = SOCKETIO;
                else if (!strcmp(value, "nats")) options.protocol = NATS;
                else if (!strcmp(value, "mqtt")) options.protocol = MQTT;
            } else {
                fprintf(stderr, "loadgen: unknown option %s\n", name);
                exit(2);
            }
        }
    }
    if (options.publishers > MAX_PUBLISHERS) options.publishers = MAX_PUBLISHERS;
    if (options.threads > MAX_THREADS) options.threads = MAX_THREADS;
    if (options.size > 65536) options.size = 65536;
}
int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    set_up();
    double begin = now_s(), cpu_begin = cpu_s();
    for (int t = 0; t < options.threads; t++)
        if (pthread_create(&threads[t].id, NULL, run, &threads[t]) != 0) die("pthread_create");
    u64 total = (u64)(options.connections + options.stuck);
    while (SUM(ready) < total) {
        sleep_until(now_s() + 0.0005);
        if (now_s() - begin > options.connect_s) {
            fprintf(stderr, "loadgen: %llu of %llu connections after %.0f s\n", (unsigned long long)SUM(ready),
                    (unsigned long long)total, options.connect_s);
            return 3;
        }
    }
    double seconds = now_s() - begin;
    u32 deflate = 0;
    for (u64 i = 0; i < total; i++) deflate += connections[i].deflate;
    say("{\"event\":\"connected\",\"connections\":%llu,\"seconds\":%.6f,\"per_s\":%.1f,\"deflate\":%u,\"generator_cpu_s\":%.6f}",
        (unsigned long long)total, seconds, (double)total / seconds, deflate, cpu_s() - cpu_begin);
    char line[512];
    bool proved = false;
    while (fgets(line, sizeof line, stdin) && strncmp(line, "quit", 4) != 0) {
        if (strncmp(line, "idle", 4) != 0 && !proved) {
            if (!probe()) {
                fprintf(stderr, "loadgen: only %llu of %d clients receive anything\n", (unsigned long long)probed_count, good);
                return 4;
            }
            proved = true;
        }
        phase(line);
    }
    stopping = 1;
    wake_all();
    for (int t = 0; t < options.threads; t++) pthread_join(threads[t].id, NULL);
    return 0;
}
