/* A driver and its managed objects, as small as can be. */
#define NULL ((void *)0)
typedef unsigned char u8;
struct qemud_driver { int nactive; struct objlist { int count; void **objs; } domains; int caps; };
typedef struct _virDomainObj virDomainObj;
typedef virDomainObj *virDomainObjPtr;
struct _virDomainObj { int state; int persistent; struct { int id; int vcpus; } *def; };
typedef struct _virConnect { void *privateData; } *virConnectPtr;
typedef struct _virDomain { virConnectPtr conn; u8 uuid[16]; } *virDomainPtr;
void qemuDriverLock(struct qemud_driver *driver);
void qemuDriverUnlock(struct qemud_driver *driver);
void virDomainObjLock(virDomainObjPtr obj);
void virDomainObjUnlock(virDomainObjPtr obj);
virDomainObjPtr virDomainFindByUUID(struct objlist *doms, const u8 *uuid);
virDomainObjPtr virDomainFindByID(struct objlist *doms, int id);
virDomainObjPtr virDomainAssignDef(virConnectPtr conn, struct objlist *doms, void *def);
void error(const char *text);
int start(virConnectPtr conn, struct qemud_driver *driver, virDomainObjPtr vm);
int look(virDomainObjPtr vm);
typedef struct { const char *name; int (*a)(virDomainPtr); int (*b)(virDomainPtr); void (*c)(virDomainPtr);
                 int (*d)(virDomainPtr); int (*e)(virDomainPtr); int (*f)(virDomainPtr); } virDriver;
