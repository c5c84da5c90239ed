// rules: pthread
// Many locks that are each taken under a condition of their own: more states together than can be followed.
#include <pthread.h>
#include <stddef.h>
static pthread_mutex_t l0, l1, l2, l3, l4, l5, l6, l7;
struct part { pthread_mutex_t lock; int v; };
struct part *part(int);
int test(int);
void work(int);

void conditional_clean(int c0, int c1, int c2, int c3, int c4, int c5, int c6, int c7) {
    if (c0)
        pthread_mutex_lock(&l0);
    if (c1)
        pthread_mutex_lock(&l1);
    if (c2)
        pthread_mutex_lock(&l2);
    if (c3)
        pthread_mutex_lock(&l3);
    if (c4)
        pthread_mutex_lock(&l4);
    if (c5)
        pthread_mutex_lock(&l5);
    if (c6)
        pthread_mutex_lock(&l6);
    if (c7)
        pthread_mutex_lock(&l7);
    work(1);
    if (c7)
        pthread_mutex_unlock(&l7);
    if (c6)
        pthread_mutex_unlock(&l6);
    if (c5)
        pthread_mutex_unlock(&l5);
    if (c4)
        pthread_mutex_unlock(&l4);
    if (c3)
        pthread_mutex_unlock(&l3);
    if (c2)
        pthread_mutex_unlock(&l2);
    if (c1)
        pthread_mutex_unlock(&l1);
    if (c0)
        pthread_mutex_unlock(&l0);
}

void conditional_clean_in_a_loop(int n, int c0, int c1, int c2, int c3, int c4, int c5, int c6, int c7) {
    while (n--) {
    if (c0)
        pthread_mutex_lock(&l0);
    if (c1)
        pthread_mutex_lock(&l1);
    if (c2)
        pthread_mutex_lock(&l2);
    if (c3)
        pthread_mutex_lock(&l3);
    if (c4)
        pthread_mutex_lock(&l4);
    if (c5)
        pthread_mutex_lock(&l5);
    if (c6)
        pthread_mutex_lock(&l6);
    if (c7)
        pthread_mutex_lock(&l7);
    work(n);
    if (c7)
        pthread_mutex_unlock(&l7);
    if (c6)
        pthread_mutex_unlock(&l6);
    if (c5)
        pthread_mutex_unlock(&l5);
    if (c4)
        pthread_mutex_unlock(&l4);
    if (c3)
        pthread_mutex_unlock(&l3);
    if (c2)
        pthread_mutex_unlock(&l2);
    if (c1)
        pthread_mutex_unlock(&l1);
    if (c0)
        pthread_mutex_unlock(&l0);
    }
}

int conditional_leak(int c0, int c1, int c2, int c3, int c4, int c5, int c6, int c7) {
    if (c0)
        pthread_mutex_lock(&l0);
    if (c1)
        pthread_mutex_lock(&l1);
    if (c2)
        pthread_mutex_lock(&l2);
    if (c3)
        pthread_mutex_lock(&l3);
    if (c4)
        pthread_mutex_lock(&l4);
    if (c5)
        pthread_mutex_lock(&l5);
    if (c6)
        pthread_mutex_lock(&l6);
    if (c7)
        pthread_mutex_lock(&l7);
    if (test(1))
        return -1; // expect: exit-locked
    if (c7)
        pthread_mutex_unlock(&l7);
    if (c6)
        pthread_mutex_unlock(&l6);
    if (c5)
        pthread_mutex_unlock(&l5);
    if (c4)
        pthread_mutex_unlock(&l4);
    if (c3)
        pthread_mutex_unlock(&l3);
    if (c2)
        pthread_mutex_unlock(&l2);
    if (c1)
        pthread_mutex_unlock(&l1);
    if (c0)
        pthread_mutex_unlock(&l0);
    return 0;
}

void conditional_one_forgotten(int c0, int c1, int c2, int c3, int c4, int c5, int c6, int c7) {
    if (c0)
        pthread_mutex_lock(&l0);
    if (c1)
        pthread_mutex_lock(&l1);
    if (c2)
        pthread_mutex_lock(&l2);
    if (c3)
        pthread_mutex_lock(&l3);
    if (c4)
        pthread_mutex_lock(&l4);
    if (c5)
        pthread_mutex_lock(&l5);
    if (c6)
        pthread_mutex_lock(&l6);
    if (c7)
        pthread_mutex_lock(&l7);
    work(1);
    if (c7)
        pthread_mutex_unlock(&l7);
    if (c6)
        pthread_mutex_unlock(&l6);
    if (c4)
        pthread_mutex_unlock(&l4);
    if (c3)
        pthread_mutex_unlock(&l3);
    if (c2)
        pthread_mutex_unlock(&l2);
    if (c1)
        pthread_mutex_unlock(&l1);
    if (c0)
        pthread_mutex_unlock(&l0);
} // expect: exit-locked

void conditional_wrong_flag(int c0, int c1, int c2, int c3, int c4, int c5, int c6, int c7) {
    if (c0)
        pthread_mutex_lock(&l0);
    if (c1)
        pthread_mutex_lock(&l1);
    if (c2)
        pthread_mutex_lock(&l2);
    if (c3)
        pthread_mutex_lock(&l3);
    if (c4)
        pthread_mutex_lock(&l4);
    if (c5)
        pthread_mutex_lock(&l5);
    if (c6)
        pthread_mutex_lock(&l6);
    if (c7)
        pthread_mutex_lock(&l7);
    work(1);
    if (c7)
        pthread_mutex_unlock(&l7);
    if (c6)
        pthread_mutex_unlock(&l6);
    if (c5)
        pthread_mutex_unlock(&l5);
    if (c4)
        pthread_mutex_unlock(&l4);
    if (c4)
        pthread_mutex_unlock(&l3); // expect: unlock-unlocked
    if (c2)
        pthread_mutex_unlock(&l2);
    if (c1)
        pthread_mutex_unlock(&l1);
    if (c0)
        pthread_mutex_unlock(&l0);
} // expect: exit-locked

void conditional_twice(int c0, int c1, int c2, int c3, int c4, int c5, int c6, int c7) {
    if (c0)
        pthread_mutex_lock(&l0);
    if (c1)
        pthread_mutex_lock(&l1);
    if (c2)
        pthread_mutex_lock(&l2);
    if (c3)
        pthread_mutex_lock(&l3);
    if (c4)
        pthread_mutex_lock(&l4);
    if (c5)
        pthread_mutex_lock(&l5);
    if (c6)
        pthread_mutex_lock(&l6);
    if (c7)
        pthread_mutex_lock(&l7);
    if (c6 && !c7)
        pthread_mutex_lock(&l6); // expect: double-lock
    if (c7)
        pthread_mutex_unlock(&l7);
    if (c6)
        pthread_mutex_unlock(&l6);
    if (c5)
        pthread_mutex_unlock(&l5);
    if (c4)
        pthread_mutex_unlock(&l4);
    if (c3)
        pthread_mutex_unlock(&l3);
    if (c2)
        pthread_mutex_unlock(&l2);
    if (c1)
        pthread_mutex_unlock(&l1);
    if (c0)
        pthread_mutex_unlock(&l0);
}

void conditional_unlocked_twice(int c0, int c1, int c2, int c3, int c4, int c5, int c6, int c7) {
    if (c0)
        pthread_mutex_lock(&l0);
    if (c1)
        pthread_mutex_lock(&l1);
    if (c2)
        pthread_mutex_lock(&l2);
    if (c3)
        pthread_mutex_lock(&l3);
    if (c4)
        pthread_mutex_lock(&l4);
    if (c5)
        pthread_mutex_lock(&l5);
    if (c6)
        pthread_mutex_lock(&l6);
    if (c7)
        pthread_mutex_lock(&l7);
    work(1);
    if (c7)
        pthread_mutex_unlock(&l7);
    if (c6)
        pthread_mutex_unlock(&l6);
    if (c5)
        pthread_mutex_unlock(&l5);
    if (c4)
        pthread_mutex_unlock(&l4);
    if (c3)
        pthread_mutex_unlock(&l3);
    if (c2)
        pthread_mutex_unlock(&l2);
    if (c1)
        pthread_mutex_unlock(&l1);
    if (c0)
        pthread_mutex_unlock(&l0);
    if (c2)
        pthread_mutex_unlock(&l2); // expect: double-unlock
}

void independent(void) {
    if (test(0))
        pthread_mutex_lock(&l0);
    if (test(1))
        pthread_mutex_lock(&l1);
    if (test(2))
        pthread_mutex_lock(&l2);
    if (test(3))
        pthread_mutex_lock(&l3);
    if (test(4))
        pthread_mutex_lock(&l4);
    if (test(5))
        pthread_mutex_lock(&l5);
    if (test(6))
        pthread_mutex_lock(&l6);
    if (test(7))
        pthread_mutex_lock(&l7);
    work(1);
    if (test(100))
        pthread_mutex_unlock(&l0); // expect: unlock-unlocked
    if (test(101))
        pthread_mutex_unlock(&l1); // expect: unlock-unlocked
    if (test(102))
        pthread_mutex_unlock(&l2); // expect: unlock-unlocked
    if (test(103))
        pthread_mutex_unlock(&l3); // expect: unlock-unlocked
    if (test(104))
        pthread_mutex_unlock(&l4); // expect: unlock-unlocked
    if (test(105))
        pthread_mutex_unlock(&l5); // expect: unlock-unlocked
    if (test(106))
        pthread_mutex_unlock(&l6); // expect: unlock-unlocked
    if (test(107))
        pthread_mutex_unlock(&l7); // expect: unlock-unlocked
} // expect: exit-locked

int one_after_the_other(int x) {
    struct part *p0 = part(0);
    if (!p0)
        goto out;
    pthread_mutex_lock(&p0->lock);
    if (p0->v == x) {
        pthread_mutex_unlock(&p0->lock);
        goto out;
    }
    pthread_mutex_unlock(&p0->lock);
    struct part *p1 = part(1);
    if (!p1)
        goto out;
    pthread_mutex_lock(&p1->lock);
    if (p1->v == x) {
        pthread_mutex_unlock(&p1->lock);
        goto out;
    }
    pthread_mutex_unlock(&p1->lock);
    struct part *p2 = part(2);
    if (!p2)
        goto out;
    pthread_mutex_lock(&p2->lock);
    if (p2->v == x) {
        pthread_mutex_unlock(&p2->lock);
        goto out;
    }
    pthread_mutex_unlock(&p2->lock);
    struct part *p3 = part(3);
    if (!p3)
        goto out;
    pthread_mutex_lock(&p3->lock);
    if (p3->v == x) {
        pthread_mutex_unlock(&p3->lock);
        goto out;
    }
    pthread_mutex_unlock(&p3->lock);
    struct part *p4 = part(4);
    if (!p4)
        goto out;
    pthread_mutex_lock(&p4->lock);
    if (p4->v == x) {
        pthread_mutex_unlock(&p4->lock);
        goto out;
    }
    pthread_mutex_unlock(&p4->lock);
    struct part *p5 = part(5);
    if (!p5)
        goto out;
    pthread_mutex_lock(&p5->lock);
    if (p5->v == x) {
        pthread_mutex_unlock(&p5->lock);
        goto out;
    }
    pthread_mutex_unlock(&p5->lock);
out:
    return x;
}
