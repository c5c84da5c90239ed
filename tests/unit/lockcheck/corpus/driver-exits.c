// rules: libvirt-2009
// Exits: every path must have released what it took.
#include "driver-model.h"

static int clean(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    int ret = -1;

    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    qemuDriverUnlock(driver);
    if (!vm) {
        error("no domain");
        goto cleanup;
    }
    vm->state = 1;
    ret = 0;
cleanup:
    if (vm)
        virDomainObjUnlock(vm);
    return ret;
}

static int leaks_object(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;

    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    qemuDriverUnlock(driver);
    if (!vm)
        return -1;
    if (vm->state)
        return -1; // expect: exit-locked
    virDomainObjUnlock(vm);
    return 0;
}

static void leaks_driver_at_end(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    qemuDriverLock(driver);
    driver->nactive++;
} // expect: exit-locked

static int leaks_driver_early(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    qemuDriverLock(driver);
    if (driver->nactive)
        return -1; // expect: exit-locked
    qemuDriverUnlock(driver);
    return 0;
}

static int both_by_order(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm = NULL;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    qemuDriverUnlock(driver);
    if (vm != NULL) {
        look(vm);
        virDomainObjUnlock(vm);
    }
    return 0;
}

static int null_does_not_unlock(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    if (!vm)
        goto cleanup;
    if (!vm->persistent)
        vm = NULL;
cleanup:
    if (vm)
        virDomainObjUnlock(vm);
    qemuDriverUnlock(driver);
    return 0; // expect: exit-locked
}

static int one_or_two(virDomainPtr dom, int other) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm, from = NULL;
    int ret = -1;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    if (other)
        from = virDomainFindByID(&driver->domains, other); // expect: fetch-second-object
    else
        from = vm;
    qemuDriverUnlock(driver);
    if (!vm)
        goto cleanup;
    if (other && !from)
        goto cleanup;
    look(from);
    ret = 0;
cleanup:
    if (vm)
        virDomainObjUnlock(vm);
    if (other && from)
        virDomainObjUnlock(from);
    return ret;
}

static virDriver table2 = { "QEMU", one_or_two };
static virDriver table = { "QEMU", clean, leaks_object, leaks_driver_at_end, leaks_driver_early,
                           .e = both_by_order, .f = null_does_not_unlock };
