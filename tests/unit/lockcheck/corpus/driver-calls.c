// rules: libvirt-2009
// Calls: what a called function locks, under the locks of the calling one; tests inside arguments.
#include "driver-model.h"

static int get_limit(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    int out = -1;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    qemuDriverUnlock(driver);
    if (vm) {
        out = vm->def->vcpus;
        virDomainObjUnlock(vm);
    }
    return out;
}

static int deeper(virDomainPtr dom) { return get_limit(dom) + 1; }

static int under_object(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    qemuDriverUnlock(driver);
    if (!vm)
        return -1;
    vm->state = deeper(dom); // expect: driver-after-object fetch-second-object
    virDomainObjUnlock(vm);
    return get_limit(dom);
}

static int under_driver(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    int limit;
    qemuDriverLock(driver);
    limit = deeper(dom); // expect: double-lock
    qemuDriverUnlock(driver);
    return limit;
}

static int without_driver(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    int limit;
    qemuDriverUnlock(driver);
    limit = get_limit(dom);
    qemuDriverLock(driver);
    return limit;
}

static int gives_up_driver(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    int limit;
    qemuDriverLock(driver);
    limit = without_driver(dom);
    qemuDriverUnlock(driver);
    return limit;
}

int open_uri(const char *uri);

static int tests_in_arguments(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    int n = driver && driver->nactive;
    n += open_uri(driver->nactive ? "system" : "session");
    n = driver->nactive == 2; // expect: driver-unlocked
    n = n ? driver->caps : 0; // expect: driver-unlocked
    return n;
}

struct _virDeviceMonitor { int (*count)(virDomainPtr); int (*other)(virDomainPtr); };
typedef struct _virDeviceMonitor virDeviceMonitor;

static int put_by_assignment(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    look(driver->domains.objs[0]); // expect: driver-unlocked
    return 0;
}

void fill(virDeviceMonitor *table) { table->count = put_by_assignment; }

void virDomainRemoveInactive(struct objlist *doms, virDomainObjPtr dom);

static int removes(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    if (vm && vm->persistent) {
        virDomainRemoveInactive(&driver->domains, vm);
        vm = NULL;
    }
    if (vm)
        virDomainObjUnlock(vm);
    qemuDriverUnlock(driver);
    return 0;
}

static int removes_and_unlocks(virDomainPtr dom) {
    struct qemud_driver *driver = dom->conn->privateData;
    virDomainObjPtr vm;
    qemuDriverLock(driver);
    vm = virDomainFindByUUID(&driver->domains, dom->uuid);
    if (vm && !vm->persistent)
        virDomainRemoveInactive(&driver->domains, vm);
    if (vm)
        virDomainObjUnlock(vm); // expect: double-unlock
    qemuDriverUnlock(driver);
    return 0;
}

static virDriver table2 = { "QEMU", removes, removes_and_unlocks };
static virDriver table = { "QEMU", under_object, under_driver, .d = gives_up_driver, .e = tests_in_arguments };
