// rules: libvirt
// Scope guards, cleanup attributes, unlock through a pointer to the pointer.
typedef struct virMutex { int x; } virMutex;
typedef struct { virMutex *mutex; } virLockGuard;
typedef struct _virDomainObj { int state; } virDomainObj;
void virMutexLock(virMutex *m);
void virMutexUnlock(virMutex *m);
void virObjectLock(void *o);
void virObjectUnlock(void *o);
virLockGuard virLockGuardLock(virMutex *m);
virLockGuard virObjectLockGuard(void *o);
void virLockGuardUnlock(virLockGuard *g);
void virDomainObjEndAPI(virDomainObj **vm);
static inline void glib_auto_cleanup_virLockGuard(virLockGuard *g) { virLockGuardUnlock(g); }
#define VIR_LOCK_GUARD __attribute__((cleanup(glib_auto_cleanup_virLockGuard))) virLockGuard
#define WITH_GUARD(m) \
    for (VIR_LOCK_GUARD g = virLockGuardLock(m); g.mutex; g.mutex = (virLockGuardUnlock(&g), (void *)0))
struct s { virMutex lock; virMutex other; int n; };
int work(struct s *s);
virDomainObj *find(int id);

int guarded(struct s *s) {
    VIR_LOCK_GUARD lock = virLockGuardLock(&s->lock);
    if (work(s) < 0)
        return -1;
    return 0;
}

int guarded_twice(struct s *s) {
    VIR_LOCK_GUARD lock = virLockGuardLock(&s->lock);
    virMutexLock(&s->lock); // expect: double-lock
    return 0;
}

int guard_in_scope(struct s *s) {
    {
        VIR_LOCK_GUARD lock = virLockGuardLock(&s->lock);
        work(s);
    }
    virMutexLock(&s->lock);
    virMutexUnlock(&s->lock);
    return 0;
}

int guard_and_goto(struct s *s) {
    int i;
    for (i = 0; i < 3; i++) {
        VIR_LOCK_GUARD lock = virLockGuardLock(&s->lock);
        if (work(s) == 1)
            continue;
        if (work(s) == 2)
            break;
        if (work(s) < 0)
            goto out;
    }
out:
    virMutexLock(&s->lock);
    virMutexUnlock(&s->lock);
    return 0;
}

int with_block(struct s *s) {
    WITH_GUARD(&s->lock) {
        if (work(s))
            return 1;
    }
    virMutexLock(&s->lock);
    virMutexUnlock(&s->lock);
    return 0;
}

int with_block_nested(struct s *s) {
    WITH_GUARD(&s->lock) {
        virMutexLock(&s->lock); // expect: double-lock
    }
    return 0;
}

static virLockGuard driver_lock(struct s *s) {
    return virLockGuardLock(&s->other);
}

int guard_from_a_function(struct s *s) {
    VIR_LOCK_GUARD lock = driver_lock(s);
    if (s->n)
        return -1;
    return 0;
}

static void mutex_cleanup(virMutex **m) {
    if (*m)
        virMutexUnlock(*m);
}

int own_cleanup(struct s *s) {
    __attribute__((cleanup(mutex_cleanup))) virMutex *held = &s->lock;
    virMutexLock(held);
    return work(s);
}

int end_api(int id) {
    virDomainObj *vm = find(id);
    int ret = -1;
    if (!vm)
        return -1;
    virObjectLock(vm);
    if (vm->state)
        goto cleanup;
    ret = 0;
cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int end_api_forgotten(int id) {
    virDomainObj *vm = find(id);
    if (!vm)
        return -1;
    virObjectLock(vm);
    if (vm->state)
        return -1; // expect: exit-locked
    virDomainObjEndAPI(&vm);
    virDomainObjEndAPI(&vm);
    return 0;
}
