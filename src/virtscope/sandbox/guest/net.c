/* Interfaces: up, addresses and routes of both families, pairs, DHCP (RFC 2131, one lease, no renewal: a sandbox is short). */
#include "init.h"
#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/if_packet.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

static int control(void)
{
	return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

static int interface_up(const char *name)
{
	struct ifreq q = { 0 };
	int s = control(), r;
	snprintf(q.ifr_name, IFNAMSIZ, "%s", name);
	r = ioctl(s, SIOCGIFFLAGS, &q);
	q.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (!r)
		r = ioctl(s, SIOCSIFFLAGS, &q);
	close(s);
	return r;
}

/* A request to the kernel's routing tables (rtnetlink(7)): a header, a fixed part, attributes. */
struct request { struct nlmsghdr head; unsigned char body[512]; };

static void *add(struct request *q, const void *data, size_t size)
{
	unsigned char *at = (unsigned char *)q + NLMSG_ALIGN(q->head.nlmsg_len);
	if (size)
		memcpy(at, data, size);
	q->head.nlmsg_len = NLMSG_ALIGN(q->head.nlmsg_len) + size;
	return at;
}

static struct rtattr *attribute(struct request *q, int type, const void *data, size_t size)
{
	struct rtattr a = { RTA_LENGTH(size), type };
	struct rtattr *at = add(q, &a, sizeof a);
	add(q, data, size);
	return at;
}

static void enclose(struct request *q, struct rtattr *outer)
{
	outer->rta_len = (unsigned char *)q + NLMSG_ALIGN(q->head.nlmsg_len) - (unsigned char *)outer;
}

static int ask(struct request *q)
{
	struct { struct nlmsghdr head; struct nlmsgerr error; unsigned char rest[1024]; } answer;
	int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (s < 0)
		return -1;
	q->head.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	ssize_t n = send(s, q, q->head.nlmsg_len, 0);
	if (n > 0)
		n = recv(s, &answer, sizeof answer, 0);
	int kept = errno;
	close(s);
	if (n < (ssize_t)(sizeof answer.head + sizeof answer.error.error) || answer.head.nlmsg_type != NLMSG_ERROR)
		return errno = n < 0 ? kept : EPROTO, -1;
	return answer.error.error ? (errno = -answer.error.error, -1) : 0;
}

/* An address as text into its bytes; its family, and the size in *size; 0 for what is not one. */
static int parse(const char *text, unsigned char *bytes, size_t *size)
{
	int family = strchr(text, ':') ? AF_INET6 : AF_INET;
	*size = family == AF_INET ? 4 : 16;
	return inet_pton(family, text, bytes) == 1 ? family : (errno = EINVAL, 0);
}

static int set_address(const char *name, const char *text, int prefix)
{
	unsigned char bytes[16];
	size_t size;
	int family = parse(text, bytes, &size);
	struct request q = { { NLMSG_LENGTH(0), RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE } };
	/* nobody else is on this link who could have the address */
	struct ifaddrmsg m = { family, prefix, family == AF_INET6 ? IFA_F_NODAD : 0, 0, if_nametoindex(name) };
	if (!family || !m.ifa_index)
		return -1;
	add(&q, &m, sizeof m);
	attribute(&q, IFA_LOCAL, bytes, size);
	attribute(&q, IFA_ADDRESS, bytes, size);
	return ask(&q);
}

/* A route through an interface, to a gateway or straight; without an interface, one that says: unreachable. */
static int set_route(const char *destination, int prefix, const char *name, const char *gateway)
{
	unsigned char bytes[16];
	size_t size;
	int family = parse(destination, bytes, &size), index = *name ? (int)if_nametoindex(name) : 0;
	struct request q = { { NLMSG_LENGTH(0), RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE } };
	struct rtmsg m = { .rtm_family = family, .rtm_dst_len = prefix, .rtm_table = RT_TABLE_MAIN,
			   .rtm_protocol = RTPROT_BOOT, .rtm_type = *name ? RTN_UNICAST : RTN_UNREACHABLE,
			   .rtm_scope = *name && !*gateway ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
			   .rtm_flags = *gateway ? RTNH_F_ONLINK : 0 };
	if (!family || (*name && !index))
		return -1;
	add(&q, &m, sizeof m);
	if (prefix)
		attribute(&q, RTA_DST, bytes, size);
	if (index)
		attribute(&q, RTA_OIF, &index, sizeof index);
	if (*gateway && parse(gateway, bytes, &size) != family)
		return errno = EINVAL, -1;
	if (*gateway)
		attribute(&q, RTA_GATEWAY, bytes, size);
	return ask(&q);
}

int net_pair(const char *name, const char *peer, int peer_namespace)
{
	struct request q = { { NLMSG_LENGTH(0), RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL } };
	struct ifinfomsg m = { 0 };
	add(&q, &m, sizeof m);
	attribute(&q, IFLA_IFNAME, name, strlen(name) + 1);
	struct rtattr *info = attribute(&q, IFLA_LINKINFO, NULL, 0);
	attribute(&q, IFLA_INFO_KIND, "veth", 5);
	struct rtattr *data = attribute(&q, IFLA_INFO_DATA, NULL, 0);
	struct rtattr *other = attribute(&q, VETH_INFO_PEER, NULL, 0);
	add(&q, &m, sizeof m);
	attribute(&q, IFLA_IFNAME, peer, strlen(peer) + 1);
	attribute(&q, IFLA_NET_NS_FD, &peer_namespace, sizeof peer_namespace);
	enclose(&q, other);
	enclose(&q, data);
	enclose(&q, info);
	return ask(&q);
}

static int set_mtu(const char *name, int mtu)
{
	struct ifreq q = { .ifr_mtu = mtu };
	int s = control(), r;
	snprintf(q.ifr_name, IFNAMSIZ, "%s", name);
	r = ioctl(s, SIOCSIFMTU, &q);
	close(s);
	return r;
}

struct lease { in_addr_t address, mask, gateway, server, dns[3]; int dns_count; char domain[128]; };

struct message {
	struct iphdr ip;
	struct udphdr udp;
	uint8_t op, htype, hlen, hops;
	uint32_t xid;
	uint16_t secs, flags;
	uint32_t ciaddr, yiaddr, siaddr, giaddr;
	uint8_t chaddr[16], sname[64], file[128];
	uint32_t cookie;
	uint8_t options[312];
} __attribute__((packed));

static uint16_t checksum(const void *data, size_t size)
{
	const uint8_t *p = data;
	uint32_t sum = 0;
	for (; size > 1; size -= 2, p += 2)
		sum += p[0] | p[1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static size_t compose(struct message *m, int kind, uint32_t xid, const uint8_t *mac, const struct lease *l)
{
	uint8_t *o = m->options;
	memset(m, 0, sizeof *m);
	m->op = m->htype = 1;
	m->hlen = 6;
	m->xid = xid;
	m->flags = htons(0x8000);
	memcpy(m->chaddr, mac, 6);
	m->cookie = htonl(0x63825363);
	*o++ = 53, *o++ = 1, *o++ = kind;
	if (kind == 3) {
		*o++ = 50, *o++ = 4, memcpy(o, &l->address, 4), o += 4;
		*o++ = 54, *o++ = 4, memcpy(o, &l->server, 4), o += 4;
	}
	*o++ = 55, *o++ = 4, *o++ = 1, *o++ = 3, *o++ = 6, *o++ = 15;
	*o++ = 255;
	size_t size = sizeof *m;
	m->udp.source = htons(68);
	m->udp.dest = htons(67);
	m->udp.len = htons(size - sizeof m->ip);
	m->ip.version = 4;
	m->ip.ihl = 5;
	m->ip.ttl = 64;
	m->ip.protocol = IPPROTO_UDP;
	m->ip.tot_len = htons(size);
	m->ip.daddr = INADDR_BROADCAST;
	m->ip.check = checksum(&m->ip, sizeof m->ip);
	return size;
}

/* Returns the DHCP message type of an answer to us, with the lease filled in, or 0. */
static int understand(const struct message *m, size_t size, uint32_t xid, struct lease *l)
{
	size_t fixed = offsetof(struct message, options);
	int kind = 0;
	if (size < fixed || m->ip.ihl != 5 || m->ip.protocol != IPPROTO_UDP || m->udp.dest != htons(68) || m->op != 2 ||
	    m->xid != xid || m->cookie != htonl(0x63825363))
		return 0;
	memset(l, 0, sizeof *l);
	l->address = m->yiaddr;
	const uint8_t *o = m->options, *last = (const uint8_t *)m + size;
	while (o < last && *o != 255) {
		if (!*o) {
			o++;
			continue;
		}
		if (last - o < 2 || last - o - 2 < o[1])
			break;
		uint8_t n = o[1];
		const uint8_t *v = o + 2;
		if (*o == 53 && n == 1)
			kind = *v;
		else if (*o == 1 && n == 4)
			memcpy(&l->mask, v, 4);
		else if (*o == 3 && n >= 4)
			memcpy(&l->gateway, v, 4);
		else if (*o == 54 && n == 4)
			memcpy(&l->server, v, 4);
		else if (*o == 6)
			for (; l->dns_count < 3 && l->dns_count * 4 + 4 <= n; l->dns_count++)
				memcpy(&l->dns[l->dns_count], v + 4 * l->dns_count, 4);
		else if (*o == 15 && n < sizeof l->domain)
			memcpy(l->domain, v, n);
		o += 2 + n;
	}
	return kind;
}

static int write_resolver(const char *path, const struct lease *l)
{
	char text[512], address[INET_ADDRSTRLEN];
	size_t n = 0;
	text[0] = 0;
	for (const char *c = l->domain; *c; c++)
		if (*c <= ' ' || *c > '~')
			return errno = EPROTO, -1;
	if (*l->domain)
		n = snprintf(text, sizeof text, "search %s\n", l->domain);
	for (int i = 0; i < l->dns_count && n < sizeof text - 40; i++)
		n += snprintf(text + n, sizeof text - n, "nameserver %s\n",
			      inet_ntop(AF_INET, &l->dns[i], address, sizeof address));
	return write_whole(path, text, n, O_CREAT | O_TRUNC, 0644);
}

static int take_lease(const char *name, const struct lease *l)
{
	char address[INET_ADDRSTRLEN], gateway[INET_ADDRSTRLEN];
	inet_ntop(AF_INET, &l->address, address, sizeof address);
	inet_ntop(AF_INET, &l->gateway, gateway, sizeof gateway);
	if (set_address(name, address, l->mask ? __builtin_popcount(l->mask) : 24))
		return -1;
	return l->gateway ? set_route("0.0.0.0", 0, name, gateway) : 0;
}

static int dhcp(const char *name, const char *resolver, int milliseconds)
{
	struct ifreq q = { 0 };
	struct message m;
	struct lease l = { 0 };
	uint8_t mac[6];
	struct timespec t;
	if (interface_up(name))
		return -1;
	int s = control();
	snprintf(q.ifr_name, IFNAMSIZ, "%s", name);
	if (ioctl(s, SIOCGIFHWADDR, &q))
		return close(s), -1;
	close(s);
	memcpy(mac, q.ifr_hwaddr.sa_data, 6);
	s = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETH_P_IP));
	if (s < 0)
		return -1;
	struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP), .sll_halen = 6,
				  .sll_ifindex = if_nametoindex(name), .sll_addr = { 255, 255, 255, 255, 255, 255 } };
	bind(s, (struct sockaddr *)&to, sizeof to);
	clock_gettime(CLOCK_MONOTONIC, &t);
	uint32_t xid = t.tv_nsec ^ mac[5] << 24;
	int state = 1, pause = 0;
	for (int waited = 0; waited < milliseconds;) {
		if (pause <= 0) {
			size_t size = compose(&m, state, xid, mac, &l);
			sendto(s, &m, size, 0, (struct sockaddr *)&to, sizeof to);
			pause = 1000;
		}
		struct pollfd p = { s, POLLIN, 0 };
		if (poll(&p, 1, 100) <= 0) {
			waited += 100;
			pause -= 100;
			continue;
		}
		waited++;
		ssize_t n = recv(s, &m, sizeof m, 0);
		struct lease heard;
		int kind = n > 0 ? understand(&m, n, xid, &heard) : 0;
		if (kind == 2 && state == 1) {
			l = heard;
			state = 3;
			pause = 0;
		} else if (kind == 5 && state == 3) {
			close(s);
			if (take_lease(name, &heard))
				return -1;
			return heard.dns_count && *resolver ? write_resolver(resolver, &heard) : 0;
		} else if (kind == 6) {
			state = 1;
			pause = 500;
		}
	}
	close(s);
	return errno = ETIMEDOUT, -1;
}

#define IS(name, n) (!strcmp(op, name) && r->count == (n) + 1)

int net_apply(const struct record *r)
{
	const char *const *a = r->args, *op = *a[0] == '?' ? a[0] + 1 : a[0];
	if (IS("up", 1))
		return interface_up(a[1]);
	if (IS("address", 3))
		return set_address(a[1], a[2], atoi(a[3]));
	if (IS("route", 4))
		return set_route(a[1], atoi(a[2]), a[3], a[4]);
	if (IS("mtu", 2))
		return set_mtu(a[1], atoi(a[2]));
	if (IS("dhcp", 3))
		return dhcp(a[1], a[2], atoi(a[3]));
	return errno = ENOSYS, -1;
}
