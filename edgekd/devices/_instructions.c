/* Counts executed AArch64 instructions by class: a plug-in of QEMU's user-mode emulator, loaded with

       qemu-aarch64 -plugin instructions.so,out=FILE ...

   Each block of code adds its instructions to eight counters when it runs; a block is decoded once, when QEMU
   translates it. Only what runs between two marks is written, one JSON object a line. A mark is
   getpriority(PRIO_PROCESS, MARK): a process that cannot be, so that the call does nothing on any machine.

   QEMU's plug-in interface, version 1 (QEMU 6.0 to 8.2); Debian ships no header, hence the prototypes. The counters are
   plain additions without locks: true for one thread.

   Encodings: Arm Architecture Reference Manual for A-profile, DDI 0487, section C4.1 "A64 instruction set encoding".
   The names of its tables stand beside what decodes them. */

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef struct qemu_info_t qemu_info_t;
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_cb)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                           uint64_t, uint64_t, uint64_t);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_cb);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum class {
    FLOAT_MULTIPLY_ADD, INTEGER_MULTIPLY_ADD, DOT_PRODUCT, OTHER_SIMD, LOAD_STORE, INTEGER, BRANCH, OTHER, CLASSES
};

static const char *const names[CLASSES] = {
    "float multiply-add", "integer multiply-add", "dot product", "other SIMD", "load and store", "integer", "branch",
    "other",
};

enum { GETPRIORITY = 141, MARK = 0x45444B44 }; /* the system call's number on AArch64; MARK as in onboard/runner.py */

static uint64_t counts[CLASSES], at_mark[CLASSES];
static bool marked;
static FILE *out;

static uint32_t bits(uint32_t word, int high, int low)
{
    return word >> low & ((1u << (high - low + 1)) - 1);
}

/* Vectors of integers are multiplied to be summed: SMLAL accumulates in place, SMULL's products are added pairwise
   (SADALP) by kernels for cores without dot products. Both count as multiply-adds; a lone FMUL or MUL scales, and
   counts as other SIMD, as do conversions and comparisons of single floats. */
static enum class simd(uint32_t word)
{
    uint32_t group = bits(word, 28, 24), u = bits(word, 29, 29), vector = !bits(word, 31, 31);
    uint32_t opcode5 = bits(word, 15, 11), opcode4 = bits(word, 15, 12), size = bits(word, 23, 22);
    bool scalar = bits(word, 31, 30) == 1;

    if (group == 0x1F && !bits(word, 30, 30)) /* "Floating-point data-processing (3 source)": FMADD, FMSUB ... */
        return FLOAT_MULTIPLY_ADD;
    if ((group == 0x0F && vector) || (group == 0x1F && scalar)) { /* "... vector x indexed element", and scalar */
        if (bits(word, 10, 10))
            return OTHER_SIMD; /* immediates and shifts share the group */
        switch (opcode4 | u << 4) {
        case 0x01: case 0x05: /* FMLA, FMLS */
            return FLOAT_MULTIPLY_ADD;
        case 0x00: case 0x04: case 0x18: case 0x1C: /* FMLAL, FMLSL, FMLAL2, FMLSL2 */
            return size == 2 ? FLOAT_MULTIPLY_ADD : OTHER_SIMD;
        case 0x10: case 0x14: /* MLA, MLS */
        case 0x02: case 0x12: case 0x06: case 0x16: /* SMLAL, UMLAL, SMLSL, UMLSL */
        case 0x0A: case 0x1A: /* SMULL, UMULL */
        case 0x03: case 0x07: case 0x0B: /* SQDMLAL, SQDMLSL, SQDMULL */
        case 0x1D: case 0x1F: /* SQRDMLAH, SQRDMLSH */
            return INTEGER_MULTIPLY_ADD;
        case 0x0E: case 0x1E: /* SDOT, UDOT */
            return DOT_PRODUCT;
        case 0x0F: /* SUDOT, USDOT; BFDOT and BFMLAL have sizes 1 and 3 */
            return size == 0 || size == 2 ? DOT_PRODUCT : OTHER_SIMD;
        default:
            return OTHER_SIMD;
        }
    }
    if (group != 0x0E || !vector)
        return OTHER_SIMD;
    if (bits(word, 21, 21) && bits(word, 10, 10)) { /* "Advanced SIMD three same" */
        if (opcode5 == 0x12) /* MLA, MLS */
            return INTEGER_MULTIPLY_ADD;
        if (opcode5 == 0x19 || (opcode5 == 0x1D && !u)) /* FMLA, FMLS, FMLAL2, FMLSL2; FMLAL, FMLSL */
            return FLOAT_MULTIPLY_ADD;
    } else if (bits(word, 21, 21) && !bits(word, 11, 10)) { /* "Advanced SIMD three different" */
        if (opcode4 >= 0x8 && opcode4 <= 0xD) /* SMLAL, SQDMLAL, SMLSL, SQDMLSL, SMULL, SQDMULL; unsigned likewise */
            return INTEGER_MULTIPLY_ADD;
    } else if (!bits(word, 21, 21) && bits(word, 15, 15) && bits(word, 10, 10)) { /* "... three-register extension" */
        uint32_t opcode = bits(word, 14, 11);
        if (opcode >= 0x2 && opcode <= 0x5) /* SDOT, UDOT; USDOT; SMMLA, UMMLA; USMMLA */
            return DOT_PRODUCT;
        if (u && opcode <= 0x1) /* SQRDMLAH, SQRDMLSH */
            return INTEGER_MULTIPLY_ADD;
    } else if (bits(word, 22, 21) == 2 && !bits(word, 15, 14) && bits(word, 10, 10)) { /* "... three same (FP16)" */
        if (bits(word, 13, 11) == 1 && !u) /* FMLA, FMLS */
            return FLOAT_MULTIPLY_ADD;
    }
    return OTHER_SIMD;
}

static enum class decode(uint32_t word) /* "A64 instruction set encoding": bits 28 to 25 */
{
    if (bits(word, 28, 26) == 4) /* 100x: data processing, immediate */
        return INTEGER;
    if (bits(word, 28, 26) == 5) /* 101x: branches, exceptions and system instructions */
        return bits(word, 31, 24) == 0xD4 || bits(word, 31, 22) == 0x354 ? OTHER : BRANCH;
    if (bits(word, 27, 27) && !bits(word, 25, 25)) /* x1x0 */
        return LOAD_STORE;
    if (bits(word, 27, 25) == 5) /* x101: data processing, register */
        return INTEGER;
    if (bits(word, 27, 25) == 7) /* x111: data processing, scalar floating-point and advanced SIMD */
        return simd(word);
    return bits(word, 28, 25) == 2 ? OTHER_SIMD : OTHER; /* 0010: SVE */
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block)
{
    uint64_t mine[CLASSES] = {0};
    size_t n = qemu_plugin_tb_n_insns(block);

    for (size_t i = 0; i < n; i++) {
        uint32_t word; /* instructions are little-endian on every AArch64; so is the host */
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        mine[decode(word)]++;
    }
    for (int c = 0; c < CLASSES; c++)
        if (mine[c])
            qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[c], mine[c]);
}

static void called(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t which, uint64_t who, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    if (number != GETPRIORITY || which != 0 || (uint32_t)who != MARK)
        return;
    marked = !marked;
    if (marked) {
        memcpy(at_mark, counts, sizeof counts);
        return;
    }
    for (int c = 0; c < CLASSES; c++)
        fprintf(out, "%s\"%s\": %" PRIu64, c ? ", " : "{", names[c], counts[c] - at_mark[c]);
    fputs("}\n", out);
    fflush(out);
}

__attribute__((visibility("default"))) int
qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || (out = fopen(argv[0] + 4, "w")) == NULL) {
        fputs("instructions.so needs out=FILE\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
