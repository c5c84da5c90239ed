// rules: pthread
// Functions of which one does the first half and another, later, the second; and mistakes that only look like it.
#include <pthread.h>
struct item { pthread_mutex_t lock; int n; };
struct stack { pthread_mutex_t lock; int n; };
struct conn { pthread_mutex_t lock; int n; };
struct vm { pthread_mutex_t lock; int n; };
struct data { struct vm *vm; };
struct page { pthread_mutex_t lock; int n; };
struct pages { struct page **all; int n; };
struct row { pthread_mutex_t lock; int n; };
void work(void);
int test(void);
int start(void (*f)(void *), void *data);
struct item *new_item(void);
struct page *find_page(int id);
struct row *find_row(int id);

/* One halts it, another lets it go on: no way through either does anything else. */
void halt(struct stack *s) {
    pthread_mutex_lock(&s->lock);
    s->n++;
}

void go_on(struct stack *s) {
    s->n--;
    pthread_mutex_unlock(&s->lock);
}

/* Nobody does the other half of this. */
void halt_item(struct item *i) {
    pthread_mutex_lock(&i->lock);
    i->n++;
} // expect: exit-locked

/* Two mistakes that are each other's opposite: other ways through the same functions show that they are. */
int forgets_it_once(struct conn *c) {
    pthread_mutex_lock(&c->lock);
    if (c->n < 0)
        return -1; // expect: exit-locked
    work();
    pthread_mutex_unlock(&c->lock);
    return 0;
}

int too_soon(struct conn *c) {
    int ret = -1;
    if (test())
        goto out;
    pthread_mutex_lock(&c->lock);
    ret = c->n;
out:
    pthread_mutex_unlock(&c->lock); // expect: unlock-unlocked
    return ret;
}

/* Handed to a thread in a struct of its own, and kept when there is none. */
static void body(void *opaque) {
    struct data *data = opaque;
    struct vm *vm = data->vm;
    work();
    pthread_mutex_unlock(&vm->lock);
}

int run(struct vm *vm, struct data *data) {
    pthread_mutex_lock(&vm->lock);
    data->vm = vm;
    if (start(body, data) < 0) {
        data->vm = 0;
        pthread_mutex_unlock(&vm->lock);
        return -1;
    }
    return 0;
}

/* Gathered in an array, whose elements are released together; here and there by an index. */
int gather(struct pages *p, int id) {
    struct page *page = find_page(id);
    if (!page)
        return -1;
    pthread_mutex_lock(&page->lock);
    p->all[p->n++] = page;
    return 0;
}

void release_all(struct pages *p) {
    int i;
    for (i = 0; i < p->n; i++)
        pthread_mutex_unlock(&p->all[i]->lock);
    p->n = 0;
}

int gathers_or_forgets(struct pages *p, int id) {
    struct page *page = find_page(id);
    pthread_mutex_lock(&page->lock);
    if (page->n > 3)
        return -1; // expect: exit-locked
    work();
    pthread_mutex_unlock(&page->lock);
    return 0;
}

/* No array of these is ever released. */
int keeps_row(int id) {
    struct row *row = find_row(id);
    pthread_mutex_lock(&row->lock);
    row->n++;
    return 0; // expect: exit-locked
}

/* Names with a word in them that only looks like a promise to lock. */
void handle_block_threshold(struct row *row) {
    pthread_mutex_lock(&row->lock);
    row->n++;
} // expect: exit-locked

void handleAgentError(struct row *row) {
    pthread_mutex_lock(&row->lock);
    row->n++;
} // expect: exit-locked

void clock_placeholder(struct row *row) {
    pthread_mutex_lock(&row->lock);
    row->n++;
} // expect: exit-locked

/* And one that is one, whoever calls it. */
void hold_row(struct row *row) { pthread_mutex_lock(&row->lock); }
