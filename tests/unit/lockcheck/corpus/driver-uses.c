// rules: libvirt-2009
// Uses: what counts as one, and what does not.
#include "driver-model.h"

static int driver_unlocked(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    int n = driver->nactive; // expect: driver-unlocked
    if (driver->caps)
        n++;
    qemuDriverLock(driver);
    n += driver->nactive;
    qemuDriverUnlock(driver);
    start(dom->conn, driver, NULL); // expect: driver-unlocked
    driver->caps = 0; // expect: driver-unlocked
    return driver->nactive;
}

static int object_unlocked(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    int id;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    qemuDriverUnlock(driver);
    if (!vm)
        return -1;
    id = vm->def->id;
    virDomainObjUnlock(vm);
    if (vm->def->id == 3)
        id++;
    id = vm->def->vcpus; // expect: object-unlocked
    look(vm); // expect: object-unlocked
    if (look(vm) < 0) // expect: object-unlocked
        id = 2;
    return vm->def->id;
}

static void fetch_unlocked(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm = virDomainFindByUUID(&driver->domains, dom->uuid); // expect: driver-unlocked object-lock-no-driver
    if (vm)
        virDomainObjUnlock(vm);
}

static int order(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm, other;
    qemuDriverLock(driver);
    if (!(vm = virDomainFindByUUID(&driver->domains, dom->uuid)))
        goto out;
    qemuDriverUnlock(driver);
    qemuDriverLock(driver); // expect: driver-after-object
    other = virDomainFindByID(&driver->domains, 3); // expect: fetch-second-object
    if (other)
        virDomainObjUnlock(other);
    virDomainObjUnlock(vm);
out:
    qemuDriverUnlock(driver);
    return 0;
}

static int relock(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    qemuDriverUnlock(driver);
    if (vm) {
        virDomainObjUnlock(vm);
        virDomainObjLock(vm); // expect: object-lock-no-driver
        virDomainObjUnlock(vm);
    }
    return 0;
}

static virDriver table = { "QEMU", driver_unlocked, object_unlocked, fetch_unlocked, order, relock };
