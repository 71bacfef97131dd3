// A test double for what a mock card lacks: command queues that take traces and waits for events.
//
// On a mock cluster tt-metal 0.81.1 prepares no dispatch commands for programs, and crashes where it would capture a
// trace, replay it or wait for an event; and it lets the host write while a trace is captured, which a card refuses.
// Preloaded (LD_PRELOAD), this library stands in front of six functions of `libtt_metal.so`, so that programs are
// prepared and traces captured, measured and placed as for a card, replays and waits are counted instead of sent, and
// such writes are errors. It is for tests alone: it stops the process where no mock cluster is chosen,
// and with any version but 0.81.1, whose internals it relies on. `cargo xtask tenstorrent` compiles it.
//
// The wheel ships no C++ headers. Functions are therefore named as the linker names them, and what they take is
// passed on untouched.

#include <atomic>
#include <climits>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>

#include <dlfcn.h>
#include <unistd.h>

#define QUEUE "_ZN2tt8tt_metal11distributed18FDMeshCommandQueue"
#define ENQUEUE_PROGRAM                                                                                                \
    "_ZN2tt8tt_metal11distributed19EnqueueMeshWorkloadERNS1_16MeshCommandQueueERNS1_12MeshWorkloadEb"
#define PREPARE_COMMANDS "_ZN2tt8tt_metal6detail11ProgramImpl22populate_dispatch_dataEPNS0_7IDeviceE"
#define END_CAPTURE QUEUE "10record_endEv"
#define WRITE                                                                                                          \
    QUEUE "21write_shard_to_deviceERKNS1_10MeshBufferERKNS1_14MeshCoordinateEPKvRKSt8optionalINS0_12BufferRegionEE"    \
          "St4spanIKN4ttsl10StrongTypeIhNS0_14SubDeviceIdTagEEELm18446744073709551615EE"                               \
          "St10shared_ptrINS0_12experimental12PinnedMemoryEEPKNS0_12CoreRangeSetE"
#define REPLAY                                                                                                         \
    "_ZN2tt8tt_metal14trace_dispatch20issue_trace_commandsEPNS0_11distributed10MeshDeviceERNS0_19SystemMemoryManager"  \
    "ERKNS1_21TraceDispatchMetadataEhRKSt5arrayIjLm8EENS_7xy_pairE"
#define WAIT_FOR_EVENT "_ZN2tt8tt_metal14event_dispatch29issue_wait_for_event_commandsEhhRNS0_19SystemMemoryManagerEj"
#define CONTEXT "_ZN2tt8tt_metal12MetalContext8instanceEN4ttsl10StrongTypeIiNS0_12ContextIdTagEEE"
#define CLUSTER "_ZN2tt8tt_metal12MetalContext11get_clusterEv"

namespace {

// `tt::Cluster` keeps what it talks to in the byte at this offset.
constexpr int TARGET_OFFSET = 4;
enum Target : uint8_t { SILICON = 0, MOCK = 2 };

// A command queue keeps the byte that says whether it is capturing a trace at this offset.
constexpr int CAPTURING_OFFSET = 0xbb4;

std::atomic<uint64_t> programs, captures, replays, waits, writes;

[[noreturn]] void refuse(const char* reason, const char* what = "") {
    fprintf(stderr, "mock_trace_shim (made for ttnn 0.81.1 on a mock card): %s%s\n", reason, what);
    abort();
}

// The wheel's description of itself lies beside its folder, four levels above `ttnn/build/lib/libtt_metal.so`.
void check_version(void* function) {
    Dl_info info;
    char path[PATH_MAX + 32] = "";
    if (dladdr(function, &info) != 0) {
        strncpy(path, info.dli_fname, PATH_MAX - 1);
    }
    for (int level = 0; level < 4; ++level) {
        char* slash = strrchr(path, '/');
        if (slash == nullptr) {
            refuse("cannot tell where libtt_metal.so lies");
        }
        *slash = '\0';
    }
    strcat(path, "/ttnn-0.81.1.dist-info");
    if (access(path, F_OK) != 0) {
        refuse("this is another version of ttnn; there is no ", path);
    }
}

// The wheel's library. Python loads it out of sight of RTLD_NEXT, so it is found by its name.
void* library() {
    static void* const library = [] {
        if (getenv("TT_METAL_MOCK_CLUSTER_DESC_PATH") == nullptr) {
            refuse("TT_METAL_MOCK_CLUSTER_DESC_PATH is not set, so this might be a card");
        }
        void* found = dlopen("libtt_metal.so", RTLD_LAZY | RTLD_NOLOAD);
        void* function = found == nullptr ? nullptr : dlsym(found, ENQUEUE_PROGRAM);
        if (function == nullptr) {
            refuse("libtt_metal.so is not loaded or has no ", ENQUEUE_PROGRAM);
        }
        check_version(function);
        return found;
    }();
    return library;
}

template <typename Function>
Function* real(const char* name) {
    void* function = dlsym(library(), name);
    if (function == nullptr) {
        refuse("libtt_metal.so has no ", name);
    }
    return reinterpret_cast<Function*>(function);
}

// While one of these lives, tt-metal takes the mock cluster for silicon. Programs are prepared on several threads.
class PresentAsSilicon {
  public:
    PresentAsSilicon() {
        std::lock_guard<std::mutex> lock(mutex_);
        uint8_t& target = this->target();
        if (living_++ == 0) {
            if (target != MOCK) {
                refuse("the cluster is not a mock");
            }
            target = SILICON;
        }
    }

    ~PresentAsSilicon() {
        std::lock_guard<std::mutex> lock(mutex_);
        if (--living_ == 0) {
            target() = MOCK;
        }
    }

    PresentAsSilicon(const PresentAsSilicon&) = delete;

  private:
    static uint8_t& target() {
        static auto* const context = real<void*(int)>(CONTEXT);
        static auto* const cluster = real<uint8_t*(void*)>(CLUSTER);
        return cluster(context(0))[TARGET_OFFSET];
    }

    static std::mutex mutex_;
    static int living_;
};

std::mutex PresentAsSilicon::mutex_;
int PresentAsSilicon::living_ = 0;

}  // namespace

// What tests ask: how many programs were enqueued (captured ones included), traces captured, traces replayed, events
// waited for, tensors written by the host, in this process so far. Absent where the library is not preloaded.
extern "C" {
uint64_t mock_card_programs() { return programs; }
uint64_t mock_card_captures() { return captures; }
uint64_t mock_card_replays() { return replays; }
uint64_t mock_card_waits() { return waits; }
uint64_t mock_card_writes() { return writes; }
}

// In front of tt-metal's own functions of these names.

void enqueue_program(void* queue, void* workload, bool blocking) __asm__(ENQUEUE_PROGRAM);
void enqueue_program(void* queue, void* workload, bool blocking) {
    static auto* const enqueue = real<void(void*, void*, bool)>(ENQUEUE_PROGRAM);
    enqueue(queue, workload, blocking);
    ++programs;
}

void prepare_commands(void* program, void* device) __asm__(PREPARE_COMMANDS);
void prepare_commands(void* program, void* device) {
    static auto* const prepare = real<void(void*, void*)>(PREPARE_COMMANDS);
    PresentAsSilicon silicon;
    prepare(program, device);
}

void end_capture(void* queue) __asm__(END_CAPTURE);
void end_capture(void* queue) {
    static auto* const end = real<void(void*)>(END_CAPTURE);
    PresentAsSilicon silicon;
    end(queue);
    ++captures;
}

// The rest would write into a queue or into memory that a mock card does not have. What they take is of no matter.

void replay() __asm__(REPLAY);
void replay() {
    library();
    ++replays;
}

void wait_for_event() __asm__(WAIT_FOR_EVENT);
void wait_for_event() {
    library();
    ++waits;
}

bool write(void* queue) __asm__(WRITE);
bool write(void* queue) {
    library();
    if (static_cast<bool*>(queue)[CAPTURING_OFFSET]) {
        throw std::runtime_error("Writes are not supported during trace capture.");
    }
    ++writes;
    return false;
}
