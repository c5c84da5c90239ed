// rules: qemu
// Both orders of two locks, and a call whose locks the rule set leaves out of the order.
#include <pthread.h>
static pthread_mutex_t table, row, page, turns;
void work(void);

void replay_one(void) {
    pthread_mutex_lock(&table);
    work();
    pthread_mutex_unlock(&table);
}

static void plain_one(void) {
    pthread_mutex_lock(&page);
    work();
    pthread_mutex_unlock(&page);
}

void table_then_row(void) {
    pthread_mutex_lock(&table);
    pthread_mutex_lock(&row);
    work();
    pthread_mutex_unlock(&row);
    pthread_mutex_unlock(&table);
}

void row_then_replayed_table(void) {
    pthread_mutex_lock(&row);
    replay_one();
    pthread_mutex_unlock(&row);
}

void page_then_turns(void) {
    pthread_mutex_lock(&page);
    pthread_mutex_lock(&turns); // expect: lock-order
    work();
    pthread_mutex_unlock(&turns);
    pthread_mutex_unlock(&page);
}

void turns_then_page(void) {
    pthread_mutex_lock(&turns);
    plain_one();
    pthread_mutex_unlock(&turns);
}

/* What is left out of the order is followed all the same. */
void replay_badly(int n) {
    pthread_mutex_lock(&table);
    if (n)
        return; // expect: exit-locked
    pthread_mutex_unlock(&table);
}
