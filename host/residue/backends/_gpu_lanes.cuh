// The lanes of a group of THREADS threads that hold one number, on the device.
//
// A `word` is 32 bits in each lane. Kernels touch lanes, memory and carries through this file alone:
// sim/residue_sim/gpu/lanes.hpp puts the same names on a CPU, with all lanes of a group in one
// value, so that kernel text which branches on a word or uses one as an address does not compile
// there. All groups of a warp take the same path, so every exchange names the whole warp.
//
// A carry chain is a run of *_cc calls and the call without _cc that ends it. The flag lives from
// one asm statement to the next: they are volatile, so that the compiler keeps their order, and a
// test reads in the PTX that nothing else writes the flag in between.

typedef unsigned int u32;
typedef long long i64;
typedef u32 word;

#define FN __device__ __forceinline__
#define KERNEL extern "C" __global__ void __launch_bounds__(128, 4)
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#define CHECK_AT_MOST(x, bound)

FN word lane() { return threadIdx.x % THREADS; }

// --- exchange

FN word broadcast(word x, int source) { return __shfl_sync(0xffffffff, x, source, THREADS); }

FN word from_above(word x) {  // of lane + 1; the top lane gets 0
  x = __shfl_down_sync(0xffffffff, x, 1, THREADS);
  return lane() == THREADS - 1 ? 0 : x;
}

FN word from_below(word x) {  // of lane - 1; lane 0 gets 0
  x = __shfl_up_sync(0xffffffff, x, 1, THREADS);
  return lane() == 0 ? 0 : x;
}

FN word from_half(word x, int up, int offset) {  // lane r: of (r + up) / 2 + offset mod THREADS
  return __shfl_sync(0xffffffff, x, (lane() + up) / 2 + offset, THREADS);
}

FN word ballot(word bit) {  // bit t is that of lane t of the group
  word all = __ballot_sync(0xffffffff, bit) >> (threadIdx.x % 32 / THREADS * THREADS);
  return all & (0xffffffff >> (32 - THREADS));
}

// --- which number

FN i64 slot() { return (blockIdx.x * (i64)blockDim.x + threadIdx.x) / THREADS; }
FN i64 first_number() { return slot() / (32 / THREADS) * (32 / THREADS); }  // of the warp
FN i64 number_stride() { return (i64)gridDim.x * blockDim.x / THREADS; }
FN i64 number_at(i64 base, i64 count) {
  i64 i = base + threadIdx.x % 32 / THREADS;
  return i < count ? i : count - 1;
}
FN bool any_in_warp(bool x) { return __any_sync(0xffffffff, x); }

// --- memory: word j of lane t lies at j * THREADS + t; a plain number is little-endian

FN word load(const u32 *p) { return p[lane()]; }
FN void store(u32 *p, word x) { p[lane()] = x; }
FN word load_same(const u32 *p) { return *p; }

FN word load_plain(const u32 *p, int j, int words) {
  int i = lane() * LIMBS + j;
  return i < words ? p[i] : 0;
}

FN void store_plain(u32 *p, int j, int words, word x) {
  int i = lane() * LIMBS + j;
  if (i < words) p[i] = x;
}

// --- one word

FN word is_equal(word a, word b) { return a == b; }
FN i64 address_var(word x) { return x; }  // x becomes visible in addresses

FN word add_cc(word a, word b) {
  word r;
  asm volatile("add.cc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

FN word addc_cc(word a, word b) {
  word r;
  asm volatile("addc.cc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

FN word addc(word a, word b) {
  word r;
  asm volatile("addc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

FN word sub_cc(word a, word b) {
  word r;
  asm volatile("sub.cc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

FN word subc_cc(word a, word b) {
  word r;
  asm volatile("subc.cc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

FN word subc(word a, word b) {
  word r;
  asm volatile("subc.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

FN word mad_lo_cc(word a, word b, word c) {
  word r;
  asm volatile("mad.lo.cc.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}

FN word madc_lo_cc(word a, word b, word c) {
  word r;
  asm volatile("madc.lo.cc.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}

FN word madc_hi_cc(word a, word b, word c) {
  word r;
  asm volatile("madc.hi.cc.u32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
  return r;
}
