// What host/residue/backends/_gpu_lanes.cuh gives the kernels, on a CPU: a `word` is the words of
// all lanes of a group, one after the other, and a launch runs its groups in turn.
//
// A `word` neither converts to bool nor to an integer, so that kernels which branch on one, or take
// one as an address other than by `address_var`, do not compile. A carry chain that an exchange
// interrupts, and a value above its bound, are reported by `failure`.

#pragma once

#include <cstdint>

typedef uint32_t u32;
typedef long long i64;
typedef u32 u32s __attribute__((vector_size(4 * THREADS)));
typedef uint64_t u64s __attribute__((vector_size(8 * THREADS)));

#define FN static inline
#define KERNEL extern "C" void
#define UNROLL _Pragma("GCC unroll 64")
#define ROLLED
#define CHECK_AT_MOST(x, bound) check_at_most(x, bound, #x " <= " #bound)

struct word {
  u32s v;
  word() = default;
  word(u32 x) : v(u32s{} + x) {}
  word(u32s x) : v(x) {}
};

FN word operator+(word a, word b) { return a.v + b.v; }
FN word operator-(word a, word b) { return a.v - b.v; }
FN word operator*(word a, word b) { return a.v * b.v; }
FN word operator&(word a, word b) { return a.v & b.v; }
FN word operator|(word a, word b) { return a.v | b.v; }
FN word operator^(word a, word b) { return a.v ^ b.v; }
FN word operator<<(word a, word b) { return a.v << b.v; }
FN word operator>>(word a, word b) { return a.v >> b.v; }
FN word operator~(word a) { return ~a.v; }

// --- what went wrong

static const char *failed;
static bool in_chain;  // the carry flag holds something
static u32s carry;     // 0 or 1

extern "C" const char *failure() {
  const char *first = failed;
  failed = nullptr;
  return first;
}

FN void expect(bool good, const char *text) {
  if (!good && !failed) failed = text;
}

FN void check_at_most(word x, u32 bound, const char *text) {
  for (int t = 0; t < THREADS; t++) expect(x.v[t] <= bound, text);
}

// --- exchange

FN void exchange() { expect(!in_chain, "an exchange interrupts a carry chain"); }

FN word lane() {
  word r;
  for (int t = 0; t < THREADS; t++) r.v[t] = t;
  return r;
}

FN word broadcast(word x, int source) {
  exchange();
  return word(x.v[source]);
}

FN word from_above(word x) {
  exchange();
  word r(0);
  for (int t = 0; t + 1 < THREADS; t++) r.v[t] = x.v[t + 1];
  return r;
}

FN word from_below(word x) {
  exchange();
  word r(0);
  for (int t = 1; t < THREADS; t++) r.v[t] = x.v[t - 1];
  return r;
}

FN word from_half(word x, int up, int offset) {
  exchange();
  word r;
  for (int t = 0; t < THREADS; t++) r.v[t] = x.v[((t + up) / 2 + offset) & (THREADS - 1)];
  return r;
}

FN word ballot(word bit) {
  exchange();
  u32 all = 0;
  for (int t = 0; t < THREADS; t++) all |= (bit.v[t] != 0u) << t;
  return word(all);
}

// --- which number: one group after the other

FN i64 slot() { return 0; }
FN i64 first_number() { return 0; }
FN i64 number_stride() { return 1; }
FN i64 number_at(i64 base, i64) { return base; }
FN bool any_in_warp(bool x) { return x; }

// --- memory

FN word load(const u32 *p) {
  word r;
  for (int t = 0; t < THREADS; t++) r.v[t] = p[t];
  return r;
}

FN void store(u32 *p, word x) {
  for (int t = 0; t < THREADS; t++) p[t] = x.v[t];
}

FN word load_same(const u32 *p) { return word(*p); }

FN word load_plain(const u32 *p, int j, int words) {
  word r(0);
  for (int t = 0; t < THREADS; t++)
    if (t * LIMBS + j < words) r.v[t] = p[t * LIMBS + j];
  return r;
}

FN void store_plain(u32 *p, int j, int words, word x) {
  for (int t = 0; t < THREADS; t++)
    if (t * LIMBS + j < words) p[t * LIMBS + j] = x.v[t];
}

// --- one word

FN word is_equal(word a, word b) { return word((u32s)(a.v == b.v) & 1); }
FN i64 address_var(word x) { return x.v[0]; }

FN u64s wide(word x) { return __builtin_convertvector(x.v, u64s); }
FN u32s narrow(u64s x) { return __builtin_convertvector(x, u32s); }

FN u64s flag_in() {
  expect(in_chain, "a carry is used that no chain has made");
  return wide(carry);
}

FN word flag_out(u64s sum) {
  in_chain = true;
  carry = narrow(sum >> 32);
  return narrow(sum);
}

FN word borrow_out(u64s difference) {
  in_chain = true;
  carry = narrow(difference >> 63);
  return narrow(difference);
}

FN word end(u64s sum) {
  in_chain = false;
  return narrow(sum);
}

FN word add_cc(word a, word b) { return flag_out(wide(a) + wide(b)); }
FN word addc_cc(word a, word b) { return flag_out(wide(a) + wide(b) + flag_in()); }
FN word addc(word a, word b) { return end(wide(a) + wide(b) + flag_in()); }
FN word sub_cc(word a, word b) { return borrow_out(wide(a) - wide(b)); }
FN word subc_cc(word a, word b) { return borrow_out(wide(a) - wide(b) - flag_in()); }
FN word subc(word a, word b) { return end(wide(a) - wide(b) - flag_in()); }

FN u64s low_half(word a, word b) { return wide(a.v * b.v); }
FN u64s high_half(word a, word b) { return wide(a) * wide(b) >> 32; }

FN word mad_lo_cc(word a, word b, word c) { return flag_out(low_half(a, b) + wide(c)); }
FN word madc_lo_cc(word a, word b, word c) {
  return flag_out(low_half(a, b) + wide(c) + flag_in());
}
FN word madc_hi_cc(word a, word b, word c) {
  return flag_out(high_half(a, b) + wide(c) + flag_in());
}
