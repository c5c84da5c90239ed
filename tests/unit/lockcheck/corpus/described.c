// rules: libvirt
// Functions that the rule set describes: their bodies are held against it.
typedef struct _virDomainObj { int state; } virDomainObj;
typedef struct _virNetworkObj { int state; } virNetworkObj;
typedef struct _virSecretObj { int state; } virSecretObj;
typedef struct _virStoragePoolObj { int state; } virStoragePoolObj;
typedef struct _virInterfaceObj { int state; } virInterfaceObj;
typedef struct virMutex { int x; } virMutex;
typedef struct _virNodeDeviceObj { virMutex lock; int state; } virNodeDeviceObj;
void virObjectLock(void *o);
void virObjectUnlock(void *o);
void virObjectUnref(void *o);
void virMutexUnlock(virMutex *m);
virDomainObj *find(int id);
virNetworkObj *find_network(int id);

void virDomainObjEndAPI(virDomainObj **vm) {
    if (!*vm)
        return;
    virObjectUnlock(*vm);
    virObjectUnref(*vm);
    *vm = 0;
}

void virNetworkObjEndAPI(virNetworkObj **net) { // expect: not-as-described
    if (!*net)
        return;
    virObjectUnref(*net);
    if ((*net)->state)
        virObjectUnlock(*net);
    *net = 0;
}

void virSecretObjEndAPI(virSecretObj **secret) {
    if (!*secret)
        return;
    virObjectUnlock(*secret);
    virObjectUnlock(*secret); // expect: double-unlock
    *secret = 0;
}

void virInterfaceObjEndAPI(virInterfaceObj **obj) { // expect: not-as-described
    if (!*obj)
        return;
    virObjectLock(*obj);
    virObjectUnref(*obj);
    *obj = 0;
}

/* Made of something else: taken at its word. */
void virNodeDeviceObjEndAPI(virNodeDeviceObj **obj) {
    if (!*obj)
        return;
    virMutexUnlock(&(*obj)->lock);
    *obj = 0;
}

/* Callers go by the description, whatever the body does. */
int ends_it(int id) {
    virNetworkObj *net = find_network(id);
    virObjectLock(net);
    virNetworkObjEndAPI(&net);
    return 0;
}

int forgets_to_end_it(int id) {
    virDomainObj *vm = find(id);
    virObjectLock(vm);
    if (vm->state)
        return -1; // expect: exit-locked
    virDomainObjEndAPI(&vm);
    return 0;
}
