// Stands for NVRTC: has the system's C++ compiler compile the kernels for the CPU, with tests/cuda/machine.h (named by the variable
// PI0_MOCK_MACHINE) in the place of what only a GPU has. Its "binary" is a shared library.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <unistd.h>

struct Program {
    std::string source, binary, log;
};

static std::string read(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
}

extern "C" {
int nvrtcVersion(int *major, int *minor) { return *major = 12, *minor = 9, 0; }
int nvrtcCreateProgram(void **program, const char *source, const char *, int, const char *const *, const char *const *) {
    return *program = new Program{source, "", ""}, 0;
}
int nvrtcDestroyProgram(void **program) { return delete (Program *)*program, 0; }

int nvrtcCompileProgram(void *program, int count, const char *const *options) {
    Program *of = (Program *)program;
    bool known = false;
    for (int i = 0; i < count; i++) known |= !strncmp(options[i], "--gpu-architecture=sm_90a", 25);
    if (!known) return 5; // NVRTC_ERROR_INVALID_OPTION
    const size_t common = of->source.find("// What several kernels use");
    if (common == std::string::npos) return 6;
    std::string text = read(getenv("PI0_MOCK_MACHINE")) + of->source.substr(common);
    std::set<std::string> names;
    for (size_t at = 0; (at = of->source.find("#define NAME ", at)) != std::string::npos;) {
        at += 13;
        names.insert(of->source.substr(at, of->source.find('\n', at) - at));
    }
    text += "static const machine::Known known[] = {\n";
    for (auto &name : names)
        text += "{\"" + name + "\", machine::Entry<&" + name + ">::run, machine::Entry<&" + name + ">::fits, machine::Entry<&" +
                name + ">::take},\n";
    text += R"(};
static const machine::Known *named(const char *name) {
    for (auto &each : known) if (!strcmp(each.name, name)) return &each;
    return 0;
}
extern "C" unsigned machine_count(const char *name) {
    machine::Argument taken[64];
    unsigned char zeros[64] = {};
    void *places[64];
    for (auto &place : places) place = zeros;
    return named(name)->take(places, taken);
}
extern "C" int machine_launch(const char *name, const unsigned *grid, unsigned threads, unsigned shared, void **given, const size_t *,
                              char *message, size_t room) {
    machine::Argument taken[64];
    const unsigned count = named(name)->take(given, taken);
    return machine::start(known, sizeof known / sizeof *known, name, grid, threads, shared, taken, count, 0, message, room);
}
)";
    char folder[] = "/tmp/mock_nvrtc_XXXXXX";
    if (!mkdtemp(folder)) return 6;
    const std::string base = folder;
    std::ofstream(base + "/kernels.cpp") << text;
    const char *compiler = getenv("CXX") ? getenv("CXX") : "c++";
    const std::string command = std::string(compiler) + " -std=c++17 -O1 -w -fno-strict-aliasing -U_FORTIFY_SOURCE -shared -fPIC -o " +
                                base + "/kernels.so " + base + "/kernels.cpp 2> " + base + "/log";
    const int failed = system(command.c_str());
    of->log = read(base + "/log");
    of->binary = read(base + "/kernels.so");
    for (auto file : {"/kernels.cpp", "/kernels.so", "/log"}) unlink((base + file).c_str());
    rmdir(folder);
    if (failed || of->binary.size() < 64) return 6; // NVRTC_ERROR_COMPILATION
    // The header's seven spare bytes say how long it is, for mock_driver.cpp.
    size_t length = of->binary.size();
    memcpy(&of->binary[9], &length, 7);
    return 0;
}
int nvrtcGetProgramLogSize(void *program, size_t *size) { return *size = ((Program *)program)->log.size() + 1, 0; }
int nvrtcGetProgramLog(void *program, char *log) { return strcpy(log, ((Program *)program)->log.c_str()), 0; }
int nvrtcGetCUBINSize(void *program, size_t *size) { return *size = ((Program *)program)->binary.size(), 0; }
int nvrtcGetCUBIN(void *program, char *binary) {
    const std::string &of = ((Program *)program)->binary;
    return memcpy(binary, of.data(), of.size()), 0;
}
const char *nvrtcGetErrorString(int) { return "an error"; }
}
