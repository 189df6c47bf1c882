/* A stand-in for libnvidia-ml.so.1: as much of NVML as ftslurm asks, with illnesses to choose.
 *
 * Built by the tests:  cc -shared -fPIC -o libnvidia-ml.so.1 fake_nvml.c
 * The file named by FAKE_NVML_FILE holds one word, read at every call: healthy, ecc_uncorrectable, lost, hang, missing,
 * xid (GPU 1 reports XID 79 once). A file that is not there means healthy. FAKE_NVML_GPUS is the number of GPUs (8).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, TIMEOUT = 10, GPU_IS_LOST = 15, MOST = 16 };

typedef struct { int index; } gpu_t;
typedef struct {
    char busIdLegacy[16];
    unsigned int domain, bus, device, pciDeviceId, pciSubSystemId;
    char busId[32];
} pci_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct {
    gpu_t *device;
    unsigned long long eventType, eventData;
    unsigned int gpuInstanceId, computeInstanceId;
} event_t;

static gpu_t gpus[MOST];

static int is(const char *wanted)
{
    char word[64] = "healthy";
    const char *path = getenv("FAKE_NVML_FILE");
    FILE *file = path ? fopen(path, "r") : NULL;
    if (file) {
        if (fscanf(file, "%63s", word) != 1)
            strcpy(word, "healthy");
        fclose(file);
    }
    return strcmp(word, wanted) == 0;
}

static unsigned int count(void)
{
    const char *text = getenv("FAKE_NVML_GPUS");
    return (text ? (unsigned int)atoi(text) : 8) - (is("missing") ? 1 : 0);
}

static int ill(const gpu_t *gpu)
{
    while (is("hang"))
        pause();
    return is("lost") && gpu->index == 1 ? GPU_IS_LOST : SUCCESS;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "some error"; }

int nvmlDeviceGetCount_v2(unsigned int *found) { *found = count(); return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, gpu_t **gpu)
{
    if (index >= count())
        return INVALID_ARGUMENT;
    gpus[index].index = (int)index;
    *gpu = &gpus[index];
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(gpu_t *gpu, pci_t *pci)
{
    memset(pci, 0, sizeof *pci);
    snprintf(pci->busId, sizeof pci->busId, "00000000:%02X:00.0", 0x10 + gpu->index);
    return SUCCESS;
}

int nvmlDeviceGetTemperature(gpu_t *gpu, int sensor, unsigned int *celsius)
{
    (void)sensor;
    *celsius = 45;
    return ill(gpu);
}

int nvmlDeviceGetTemperatureThreshold(gpu_t *gpu, int which, unsigned int *celsius)
{
    (void)which;
    *celsius = 90;
    return ill(gpu);
}

int nvmlDeviceGetTotalEccErrors(gpu_t *gpu, int kind, int counter, unsigned long long *errors)
{
    (void)kind;
    *errors = is("ecc_uncorrectable") && gpu->index == 1 ? (counter == 0 ? 3 : 12) : 0;
    return ill(gpu);
}

int nvmlDeviceGetMemoryInfo(gpu_t *gpu, memory_t *memory)
{
    memory->total = 80ull << 30;
    memory->used = 20ull << 30;
    memory->free = 60ull << 30;
    return ill(gpu);
}

int nvmlEventSetCreate(void **set) { *set = &gpus; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }

int nvmlDeviceRegisterEvents(gpu_t *gpu, unsigned long long kinds, void *set)
{
    (void)gpu, (void)kinds, (void)set;
    return SUCCESS;
}

int nvmlEventSetWait_v2(void *set, event_t *event, unsigned int timeout_ms)
{
    static int told;
    (void)set;
    if (!told && is("xid")) {
        told = 1;
        memset(event, 0, sizeof *event);
        event->device = &gpus[1];
        event->eventType = 8;
        event->eventData = 79;
        return SUCCESS;
    }
    usleep((timeout_ms > 200 ? 200 : timeout_ms) * 1000);
    return TIMEOUT;
}
