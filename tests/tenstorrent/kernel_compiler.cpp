// A test double for one program only: `riscv-tt-elf-g++`, the compiler that tt-metal calls for kernels.
//
// Tests run Tenstorrent's real host library on a mock card, which executes nothing. What kernels compute is therefore
// of no matter, but the library insists on compiling, linking, loading and placing them. This program lets it: it says
// that it is the right compiler and writes, whatever it is asked to make, one placeholder kernel. It is ours, it reads
// no source, and it must never stand where a card is. `cargo xtask tenstorrent` compiles it.
//
// It is started thousands of times, so it uses no C++ library and writes each file with one call.

#include <elf.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace {

// What tt-metal 0.81.1 looks for: its file `sfpi-version` names this release.
constexpr char VERSION[] = "riscv-tt-elf-g++ (tenstorrent/sfpi:7.89.0[1050]) 15.1.0\n";

// About as large as a kernel of an element-wise operation, so that sizes of traces are not fanciful.
constexpr uint32_t CODE_BYTES = 2048;
constexpr uint32_t CODE_ADDRESS = 0x8000;
constexpr uint32_t RETURN = 0x00008067;  // RISC-V `ret`

constexpr char NAMES[] = "\0.text\0.rela.text\0.symtab\0.strtab";
constexpr uint32_t TEXT_NAME = 1, RELOCATIONS_NAME = 7, SYMBOLS_NAME = 18, NAMES_NAME = 26;
enum Section : uint16_t { NONE, TEXT, RELOCATIONS, SYMBOLS, STRINGS, SECTIONS };

// tt-metal's loader wants a 32-bit RISC-V executable that starts at its first segment and has a section of
// relocations; it may be empty.
struct Placeholder {
    Elf32_Ehdr header;
    Elf32_Phdr segment;
    uint32_t code[CODE_BYTES / 4];
    Elf32_Sym symbols[1];
    char names[sizeof NAMES];
    alignas(4) Elf32_Shdr sections[SECTIONS];
};

Placeholder placeholder() {
    Placeholder elf = {};
    Elf32_Ehdr& header = elf.header;
    memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS32;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_RISCV;
    header.e_version = EV_CURRENT;
    header.e_entry = CODE_ADDRESS;
    header.e_phoff = offsetof(Placeholder, segment);
    header.e_shoff = offsetof(Placeholder, sections);
    header.e_ehsize = sizeof(Elf32_Ehdr);
    header.e_phentsize = sizeof(Elf32_Phdr);
    header.e_phnum = 1;
    header.e_shentsize = sizeof(Elf32_Shdr);
    header.e_shnum = SECTIONS;
    header.e_shstrndx = STRINGS;

    Elf32_Phdr& segment = elf.segment;
    segment.p_type = PT_LOAD;
    segment.p_offset = offsetof(Placeholder, code);
    segment.p_vaddr = segment.p_paddr = CODE_ADDRESS;
    segment.p_filesz = segment.p_memsz = CODE_BYTES;
    segment.p_flags = PF_R | PF_X;
    segment.p_align = 4;
    for (uint32_t& word : elf.code) {
        word = RETURN;
    }

    memcpy(elf.names, NAMES, sizeof NAMES);
    Elf32_Shdr& text = elf.sections[TEXT];
    text.sh_name = TEXT_NAME;
    text.sh_type = SHT_PROGBITS;
    text.sh_flags = SHF_ALLOC | SHF_EXECINSTR;
    text.sh_addr = CODE_ADDRESS;
    text.sh_offset = offsetof(Placeholder, code);
    text.sh_size = CODE_BYTES;
    Elf32_Shdr& relocations = elf.sections[RELOCATIONS];
    relocations.sh_name = RELOCATIONS_NAME;
    relocations.sh_type = SHT_RELA;
    relocations.sh_offset = offsetof(Placeholder, symbols);
    relocations.sh_link = SYMBOLS;
    relocations.sh_info = TEXT;
    relocations.sh_entsize = sizeof(Elf32_Rela);
    Elf32_Shdr& symbols = elf.sections[SYMBOLS];
    symbols.sh_name = SYMBOLS_NAME;
    symbols.sh_type = SHT_SYMTAB;
    symbols.sh_offset = offsetof(Placeholder, symbols);
    symbols.sh_size = sizeof elf.symbols;
    symbols.sh_link = STRINGS;
    symbols.sh_info = 1;
    symbols.sh_entsize = sizeof(Elf32_Sym);
    Elf32_Shdr& strings = elf.sections[STRINGS];
    strings.sh_name = NAMES_NAME;
    strings.sh_type = SHT_STRTAB;
    strings.sh_offset = offsetof(Placeholder, names);
    strings.sh_size = sizeof NAMES;
    return elf;
}

bool write_file(const char* path, const void* bytes, size_t size) {
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (file < 0 || write(file, bytes, size) != static_cast<ssize_t>(size) || close(file) != 0) {
        perror(path);
        return false;
    }
    return true;
}

}  // namespace

int main(int count, char** arguments) {
    const char* output = nullptr;
    const char* dependencies = nullptr;
    for (int index = 1; index < count; ++index) {
        const char* argument = arguments[index];
        if (strcmp(argument, "--version") == 0) {
            return fputs(VERSION, stdout) < 0;
        }
        if (index + 1 < count && strcmp(argument, "-o") == 0) {
            output = arguments[++index];
        } else if (index + 1 < count && strcmp(argument, "-MF") == 0) {
            dependencies = arguments[++index];
        }
    }
    if (output == nullptr) {
        fputs("kernel_compiler: a test double; it knows --version and -o alone\n", stderr);
        return 1;
    }
    const Placeholder elf = placeholder();
    if (!write_file(output, &elf, sizeof elf)) {
        return 1;
    }
    if (dependencies == nullptr) {
        return 0;
    }
    char line[4096];
    int length = snprintf(line, sizeof line, "%s:\n", output);
    return length < 0 || length >= static_cast<int>(sizeof line) || !write_file(dependencies, line, length);
}
