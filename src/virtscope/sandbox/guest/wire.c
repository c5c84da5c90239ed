/* Frames on the channel: type u8, zero u8, run u16, size u32, then that many bytes; all little-endian. */
#include "init.h"
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int channel = -1;
struct bytes outgoing;

void bytes_reserve(struct bytes *b, size_t extra)
{
	if (b->head && b->head + b->len + extra > b->cap) {
		memmove(b->at, b->at + b->head, b->len);
		b->head = 0;
	}
	if (b->len + extra > b->cap) {
		size_t cap = b->cap ? b->cap : 4096;
		while (cap < b->len + extra)
			cap *= 2;
		b->at = realloc(b->at, cap);
		if (!b->at)
			_exit(70);
		b->cap = cap;
	}
}

void bytes_add(struct bytes *b, const void *data, size_t size)
{
	bytes_reserve(b, size);
	memcpy(b->at + b->head + b->len, data, size);
	b->len += size;
}

void bytes_drop(struct bytes *b, size_t size)
{
	b->len -= size;
	b->head = b->len ? b->head + size : 0;
}

static uint32_t get32(const unsigned char *p)
{
	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

/* A record is a count, then for each argument its size (with the NUL) and its bytes. Returns 1, 0 at the end, -1. */
int record_next(const unsigned char *body, size_t size, size_t *at, struct record *r)
{
	if (*at == size)
		return 0;
	if (size - *at < 4)
		return -1;
	uint32_t count = get32(body + *at);
	*at += 4;
	if (!count || count > (size - *at) / 4)
		return -1;
	r->count = count;
	r->args = calloc(count + 1, sizeof *r->args);
	r->sizes = calloc(count + 1, sizeof *r->sizes);
	if (!r->args || !r->sizes)
		return -1;
	for (uint32_t i = 0; i < count; i++) {
		if (size - *at < 4)
			return -1;
		uint32_t length = get32(body + *at);
		*at += 4;
		if (!length || length > size - *at || body[*at + length - 1])
			return -1;
		r->args[i] = (const char *)body + *at;
		r->sizes[i] = length - 1;
		*at += length;
	}
	return 1;
}

void record_free(struct record *r)
{
	free(r->args);
	free(r->sizes);
	memset(r, 0, sizeof *r);
}

void frame_send(uint8_t type, uint16_t id, const void *payload, uint32_t size)
{
	unsigned char h[8] = { type, 0, id & 255, id >> 8, size & 255, size >> 8 & 255, size >> 16 & 255, size >> 24 };
	bytes_reserve(&outgoing, size + sizeof h);
	bytes_add(&outgoing, h, sizeof h);
	bytes_add(&outgoing, payload, size);
}

void frame_text(uint8_t type, uint16_t id, const char *format, ...)
{
	char text[512];
	va_list ap;
	va_start(ap, format);
	int n = vsnprintf(text, sizeof text, format, ap);
	va_end(ap);
	if (n > (int)sizeof text - 1)
		n = sizeof text - 1;
	frame_send(type, id, text, n);
}

void mark(const char *name)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	frame_text(T_MARK, 0, "%lld.%09ld %s", (long long)t.tv_sec, t.tv_nsec, name);
}

int flush_some(void)
{
	while (outgoing.len) {
		ssize_t n = write(channel, outgoing.at + outgoing.head, outgoing.len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : -1;
		bytes_drop(&outgoing, n);
	}
	return 0;
}

void flush_blocking(void)
{
	for (int tries = 0; outgoing.len && tries < 200; tries++) {
		if (flush_some() < 0)
			return;
		struct pollfd p = { channel, POLLOUT, 0 };
		if (outgoing.len)
			poll(&p, 1, 50);
	}
}
