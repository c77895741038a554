// Montgomery arithmetic in groups of THREADS threads, LIMBS words of 32 bits a thread.
//
// L = THREADS * LIMBS, B = 2^32, R = B^L, N odd and below R. A number in Montgomery form is x R mod
// N, represented by any value below R: `multiply` takes such values and gives one,
//     a b / R mod N:  (a b + q N) / R < (R^2 + R N) / R = R + N,  less N once where that reaches R.
// What an address or a branch depends on is public: counts, sizes, indices and offsets, and words
// that passed `address_var`, which kernels call in their `_var` form alone.

enum { L = THREADS * LIMBS };

// A modulus: N, R^2 mod N, R mod N, then -1/N mod B once for each lane.
enum { BLOCK_SQUARE = L, BLOCK_ONE = 2 * L, BLOCK_INVERSE = 3 * L };

struct Number {
  word w[LIMBS];
};

struct Modulus {
  Number n;
  word inverse;  // -1/N mod B
};

// --- memory

FN Number load_number(const u32 *p) {
  Number r;
  UNROLL for (int j = 0; j < LIMBS; j++) r.w[j] = load(p + j * THREADS);
  return r;
}

FN void store_number(u32 *p, const Number &a) {
  UNROLL for (int j = 0; j < LIMBS; j++) store(p + j * THREADS, a.w[j]);
}

FN Modulus load_modulus(const u32 *block) {
  Modulus m;
  m.n = load_number(block);
  m.inverse = load(block + BLOCK_INVERSE);
  return m;
}

// --- carries between lanes

// Carry (or borrow) into each lane, where `generate` is 1 in lanes that give one whatever comes in,
// `propagate` in lanes that pass on what comes in; never both.
FN word carry_in(word generate, word propagate) {
  word g = ballot(generate), p = ballot(propagate);
  return (((g + g + p) ^ p) >> lane()) & 1;
}

// a += carry * B^LIMBS of every lane; what leaves the top lane, in all lanes.
FN word add_carries(Number &a, word carry) {
  word c = from_below(carry), ones;
  a.w[0] = add_cc(a.w[0], c);
  UNROLL for (int j = 1; j < LIMBS; j++) a.w[j] = addc_cc(a.w[j], 0);
  word generate = addc(0, 0);
  ones = a.w[0];
  UNROLL for (int j = 1; j < LIMBS; j++) ones = ones & a.w[j];
  word propagate = is_equal(ones, 0xffffffff);
  c = carry_in(generate, propagate);
  a.w[0] = add_cc(a.w[0], c);
  UNROLL for (int j = 1; j < LIMBS - 1; j++) a.w[j] = addc_cc(a.w[j], 0);
  a.w[LIMBS - 1] = addc(a.w[LIMBS - 1], 0);
  return broadcast(carry + generate + (propagate & c), THREADS - 1);
}

// a -= b modulo R; 1 in all lanes where b > a, else 0.
FN word subtract(Number &a, const Number &b) {
  a.w[0] = sub_cc(a.w[0], b.w[0]);
  UNROLL for (int j = 1; j < LIMBS; j++) a.w[j] = subc_cc(a.w[j], b.w[j]);
  word generate = 0 - subc(0, 0);
  word any = a.w[0];
  UNROLL for (int j = 1; j < LIMBS; j++) any = any | a.w[j];
  word propagate = is_equal(any, 0);
  word c = carry_in(generate, propagate);
  a.w[0] = sub_cc(a.w[0], c);
  UNROLL for (int j = 1; j < LIMBS - 1; j++) a.w[j] = subc_cc(a.w[j], 0);
  a.w[LIMBS - 1] = subc(a.w[LIMBS - 1], 0);
  return broadcast(generate + (propagate & c), THREADS - 1);
}

// --- Montgomery multiplication

// Limbs of a lane lie in two rows whose carry chains are products of two words each: `even` has
// columns 0 .. LIMBS-1, `odd` 1 .. LIMBS. `low` belongs to column LIMBS, `high` to LIMBS + 1.

// row += by * (every other word of x, from the first or the second on); carry plus what runs out.
template <int First>
FN word add_products(word row[LIMBS], const Number &x, word by, word carry) {
  row[0] = mad_lo_cc(x.w[First], by, row[0]);
  row[1] = madc_hi_cc(x.w[First], by, row[1]);
  UNROLL for (int j = 2; j < LIMBS; j += 2) {
    row[j] = madc_lo_cc(x.w[First + j], by, row[j]);
    row[j + 1] = madc_hi_cc(x.w[First + j], by, row[j + 1]);
  }
  return addc(carry, 0);
}

// Add a b and q N, q such that column 0 of the number becomes 0; column 0 of each lane moves to
// column LIMBS of the lane below. On entry `odd` is the last step's even row and is to move down by
// two columns, its limb 1 into column 0, with low and high above it; the caller changes the rows'
// parts from step to step. low <= 2, high <= 3.
FN void step(word even[LIMBS], word odd[LIMBS], word &low, word &high, const Number &a, word b,
             const Modulus &m) {
  even[0] = add_cc(even[0], odd[1]);
  UNROLL for (int j = 0; j < LIMBS - 2; j += 2) {
    odd[j] = madc_lo_cc(a.w[j + 1], b, odd[j + 2]);
    odd[j + 1] = madc_hi_cc(a.w[j + 1], b, odd[j + 3]);
  }
  odd[LIMBS - 2] = madc_lo_cc(a.w[LIMBS - 1], b, low);
  odd[LIMBS - 1] = madc_hi_cc(a.w[LIMBS - 1], b, high);
  high = addc(0, 0);
  low = add_products<0>(even, a, b, 0);
  word q = broadcast(even[0] * m.inverse, 0);  // of lane 0: even[0] is column 0 in full
  high = add_products<1>(odd, m.n, q, high);
  low = add_products<0>(even, m.n, q, low);
  CHECK_AT_MOST(broadcast(even[0], 0), 0);
  odd[LIMBS - 1] = add_cc(odd[LIMBS - 1], from_above(even[0]));
  high = addc(high, 0);
  CHECK_AT_MOST(low, 2);
  CHECK_AT_MOST(high, 3);
}

// The number in the rows, moved as a further step would begin with; the lanes' carries.
FN word join(Number &r, const word x[LIMBS], const word y[LIMBS], word low, word high) {
  r.w[0] = add_cc(x[0], y[1]);
  UNROLL for (int j = 1; j < LIMBS - 1; j++) r.w[j] = addc_cc(x[j], y[j + 1]);
  r.w[LIMBS - 1] = addc_cc(x[LIMBS - 1], low);
  return addc(high, 0);
}

// r, with its lanes' carries, less N where that reaches R.
FN Number below_r(Number r, word carry, const Modulus &m) {
  word over = add_carries(r, carry);
  CHECK_AT_MOST(over, 1);
  Number n;
  UNROLL for (int j = 0; j < LIMBS; j++) n.w[j] = m.n.w[j] & (0 - over);
  word under = subtract(r, n);
  CHECK_AT_MOST(over ^ under, 0);
  return r;
}

FN Number multiply(const Number &a, const Number &b, const Modulus &m) {
  word x[LIMBS], y[LIMBS], low = 0, high = 0;
  UNROLL for (int j = 0; j < LIMBS; j++) x[j] = y[j] = 0;
  ROLLED for (int t = 0; t < THREADS; t++) {
    UNROLL for (int j = 0; j < LIMBS; j += 2) {
      step(x, y, low, high, a, broadcast(b.w[j], t), m);
      step(y, x, low, high, a, broadcast(b.w[j + 1], t), m);
    }
  }
  Number r;
  word carry = join(r, x, y, low, high);
  return below_r(r, carry, m);
}

// --- Montgomery squares

// Block t of a number are the words of lane t. Of two blocks, i and j, each pair is multiplied once:
// by lane r = i + j mod THREADS in turn e, where i = (r + 1) / 2 + e and j = r / 2 - e, rounded down
// and modulo THREADS. While j has not wrapped, the product belongs to column block r, then to
// r + THREADS. Those sums count twice; squares of blocks, which turn 0 of even lanes leaves out, once.
// Then the lower half goes through steps that add q N alone, and the upper half is added:
//     (a a + q N) / R < R + N as above.
// Multiply-adds: (THREADS / 2 + 1 / 2 + 1 / (2 LIMBS) + THREADS) LIMBS^2 a lane, of 2 THREADS LIMBS^2.

// `square_cost` of _gpu_plans.py has the same condition: with fewer limbs the exchanges and carries
// cost more than the multiply-adds that are saved, beyond 8 a thread lacks registers.
enum { HAS_SQUARE = LIMBS == 6 || LIMBS == 8 };

struct Wide {
  word w[2 * LIMBS];
};

struct Sum {  // of up to THREADS products of blocks
  word w[2 * LIMBS + 1];
};

// to += by * (every other word of x, from `first` on) * B^at; the carry goes to the word above.
FN void add_row(Wide &to, const Number &x, word by, int at, int first) {
  if (first >= LIMBS) return;
  to.w[at + first] = mad_lo_cc(x.w[first], by, to.w[at + first]);
  to.w[at + first + 1] = madc_hi_cc(x.w[first], by, to.w[at + first + 1]);
  UNROLL for (int j = first + 2; j < LIMBS; j += 2) {
    to.w[at + j] = madc_lo_cc(x.w[j], by, to.w[at + j]);
    to.w[at + j + 1] = madc_hi_cc(x.w[j], by, to.w[at + j + 1]);
  }
  int end = at + LIMBS + first % 2;
  if (end < 2 * LIMBS) {
    to.w[end] = addc(to.w[end], 0);
  } else {
    word none = addc(0, 0);
    CHECK_AT_MOST(none, 0);
  }
}

// s += even + odd * B.
FN void add_rows(Sum &s, const Wide &even, const Wide &odd) {
  s.w[0] = add_cc(s.w[0], even.w[0]);
  UNROLL for (int j = 1; j < 2 * LIMBS; j++) s.w[j] = addc_cc(s.w[j], even.w[j]);
  s.w[2 * LIMBS] = addc(s.w[2 * LIMBS], 0);
  s.w[1] = add_cc(s.w[1], odd.w[0]);
  UNROLL for (int j = 2; j < 2 * LIMBS; j++) s.w[j] = addc_cc(s.w[j], odd.w[j - 1]);
  s.w[2 * LIMBS] = addc(s.w[2 * LIMBS], 0);
}

FN void clear(Wide &even, Wide &odd) {
  UNROLL for (int j = 0; j < 2 * LIMBS; j++) even.w[j] = odd.w[j] = 0;
}

// The square of each lane's block.
FN Wide square_block(const Number &a) {
  Wide even, odd, r;
  clear(even, odd);
  UNROLL for (int i = 0; i < LIMBS; i++) {
    add_row(even, a, a.w[i], i, i + 2);
    add_row(odd, a, a.w[i], i - 1, i + 1);
  }
  r.w[0] = even.w[0];
  r.w[1] = add_cc(even.w[1], odd.w[0]);
  UNROLL for (int j = 2; j < 2 * LIMBS - 1; j++) r.w[j] = addc_cc(even.w[j], odd.w[j - 1]);
  r.w[2 * LIMBS - 1] = addc(even.w[2 * LIMBS - 1], odd.w[2 * LIMBS - 2]);
  r.w[0] = add_cc(r.w[0], r.w[0]);
  UNROLL for (int j = 1; j < 2 * LIMBS - 1; j++) r.w[j] = addc_cc(r.w[j], r.w[j]);
  r.w[2 * LIMBS - 1] = addc(r.w[2 * LIMBS - 1], r.w[2 * LIMBS - 1]);
  r.w[0] = mad_lo_cc(a.w[0], a.w[0], r.w[0]);
  r.w[1] = madc_hi_cc(a.w[0], a.w[0], r.w[1]);
  UNROLL for (int i = 1; i < LIMBS; i++) {
    r.w[2 * i] = madc_lo_cc(a.w[i], a.w[i], r.w[2 * i]);
    r.w[2 * i + 1] = madc_hi_cc(a.w[i], a.w[i], r.w[2 * i + 1]);
  }
  word none = addc(0, 0);
  CHECK_AT_MOST(none, 0);
  return r;
}

// s = 2 s, and in even lanes r the square of block r / 2 + offset besides.
FN void twice_and_square(Sum &s, const Wide &squares, int offset) {
  word mask = (lane() & 1) - 1;
  Wide mine;
  UNROLL for (int j = 0; j < 2 * LIMBS; j++)
    mine.w[j] = from_half(squares.w[j], 0, offset) & mask;
  s.w[0] = add_cc(s.w[0], s.w[0]);
  UNROLL for (int j = 1; j < 2 * LIMBS; j++) s.w[j] = addc_cc(s.w[j], s.w[j]);
  s.w[2 * LIMBS] = addc(s.w[2 * LIMBS], s.w[2 * LIMBS]);
  s.w[0] = add_cc(s.w[0], mine.w[0]);
  UNROLL for (int j = 1; j < 2 * LIMBS; j++) s.w[j] = addc_cc(s.w[j], mine.w[j]);
  s.w[2 * LIMBS] = addc(s.w[2 * LIMBS], 0);
  CHECK_AT_MOST(s.w[2 * LIMBS], THREADS + 1);
}

// The square of a, as sums of column blocks: `low` of block r in lane r, `high` of r + THREADS.
FN void square_columns(Sum &low, Sum &high, const Number &a) {
  UNROLL for (int j = 0; j <= 2 * LIMBS; j++) low.w[j] = high.w[j] = 0;
  ROLLED for (int e = 0; e < THREADS / 2; e++) {
    word mask = (0 - (lane() & 1)) | (e ? ~0u : 0u);
    Number x;
    UNROLL for (int j = 0; j < LIMBS; j++) x.w[j] = from_half(a.w[j], 1, e) & mask;
    Wide even, odd;
    clear(even, odd);
    UNROLL for (int i = 0; i < LIMBS; i++) {
      word by = from_half(a.w[i], 0, -e);
      add_row(even, x, by, i, i % 2);
      add_row(odd, x, by, i - 1, 1 - i % 2);
    }
    add_rows(high, even, odd);  // for now the sum of both
    word last = 0 - is_equal(lane() >> 1, e);
    UNROLL for (int j = 0; j <= 2 * LIMBS; j++)
      low.w[j] = (high.w[j] & last) | (low.w[j] & ~last);
  }
  high.w[0] = sub_cc(high.w[0], low.w[0]);
  UNROLL for (int j = 1; j < 2 * LIMBS; j++) high.w[j] = subc_cc(high.w[j], low.w[j]);
  high.w[2 * LIMBS] = subc(high.w[2 * LIMBS], low.w[2 * LIMBS]);
  Wide squares = square_block(a);
  twice_and_square(low, squares, 0);
  twice_and_square(high, squares, THREADS / 2);
}

// `step` without a product: low <= 1, high <= 2 after the first.
FN void reduce(word even[LIMBS], word odd[LIMBS], word &low, word &high, const Modulus &m) {
  even[0] = add_cc(even[0], odd[1]);
  word carry = addc(0, 0);
  word q = broadcast(even[0] * m.inverse, 0);
  add_cc(carry, 0xffffffff);  // it is the flag again
  UNROLL for (int j = 0; j < LIMBS - 2; j += 2) {
    odd[j] = madc_lo_cc(m.n.w[j + 1], q, odd[j + 2]);
    odd[j + 1] = madc_hi_cc(m.n.w[j + 1], q, odd[j + 3]);
  }
  odd[LIMBS - 2] = madc_lo_cc(m.n.w[LIMBS - 1], q, low);
  odd[LIMBS - 1] = madc_hi_cc(m.n.w[LIMBS - 1], q, high);
  high = addc(0, 0);
  low = add_products<0>(even, m.n, q, 0);
  CHECK_AT_MOST(broadcast(even[0], 0), 0);
  odd[LIMBS - 1] = add_cc(odd[LIMBS - 1], from_above(even[0]));
  high = addc(high, 0);
  CHECK_AT_MOST(low, 1);
  CHECK_AT_MOST(high, 2);
}

FN Number square(const Number &a, const Modulus &m) {
  if constexpr (HAS_SQUARE) {
    Sum lower, upper;
    square_columns(lower, upper, a);
    // A sum's upper words belong to the lane above; those of the top lane to lane 0 of the upper half.
    word bottom = 0 - is_equal(lane(), 0), x[LIMBS], y[LIMBS];
    Number top, above;
    UNROLL for (int j = 0; j < LIMBS; j++) {
      word leaves = broadcast(lower.w[LIMBS + j], THREADS - 1);
      above.w[j] = from_below(upper.w[LIMBS + j]) | (leaves & bottom);
    }
    word leaves = broadcast(lower.w[2 * LIMBS], THREADS - 1);
    word more = from_below(upper.w[2 * LIMBS]) | (leaves & bottom);
    top.w[0] = add_cc(upper.w[0], above.w[0]);
    UNROLL for (int j = 1; j < LIMBS; j++) top.w[j] = addc_cc(upper.w[j], above.w[j]);
    more = addc(more, 0);
    UNROLL for (int j = 0; j < LIMBS; j++) x[j] = lower.w[j];
    y[0] = 0;
    UNROLL for (int j = 1; j < LIMBS; j++) y[j] = from_below(lower.w[LIMBS + j - 1]);
    word low = from_below(lower.w[2 * LIMBS - 1]), high = from_below(lower.w[2 * LIMBS]);
    ROLLED for (int t = 0; t < THREADS; t++) {
      UNROLL for (int j = 0; j < LIMBS; j += 2) {
        reduce(x, y, low, high, m);
        reduce(y, x, low, high, m);
      }
    }
    Number r;
    word carry = join(r, x, y, low, high);
    r.w[0] = add_cc(r.w[0], top.w[0]);
    UNROLL for (int j = 1; j < LIMBS; j++) r.w[j] = addc_cc(r.w[j], top.w[j]);
    return below_r(r, addc(carry, more), m);
  } else {
    return multiply(a, a, m);
  }
}

// --- tables and digits

// Entry `digit` of a table; every entry is read.
FN Number select(const u32 *table, int entries, word digit) {
  Number r;
  UNROLL for (int j = 0; j < LIMBS; j++) r.w[j] = 0;
  ROLLED for (int d = 0; d < entries; d++) {
    word mask = 0 - is_equal(digit, d);
    UNROLL for (int j = 0; j < LIMBS; j++)
      r.w[j] = r.w[j] | (load(table + d * L + j * THREADS) & mask);
  }
  return r;
}

template <bool Var>
FN Number look_up(const u32 *table, int window, word digit) {
  if (Var) return load_number(table + address_var(digit) * L);
  return select(table, 1 << window, digit);
}

// Digit `row` of `window` bits of a little-endian number of `words` words.
FN word digit_of(const u32 *e, int words, int window, int row) {
  int at = row * window, shift = at % 32, first = at / 32;
  word bits = 0;
  if (first < words) bits = load_same(e + first) >> shift;
  if (shift + window > 32 && first + 1 < words)
    bits = bits | (load_same(e + first + 1) << (32 - shift));
  return bits & ((1 << window) - 1);
}

// Entries 0 .. entries-1 of `table`: the powers of a.
FN void fill_table(u32 *table, const Number &a, int entries, const u32 *block, const Modulus &m) {
  Number power = load_number(block + BLOCK_ONE);
  store_number(table, power);
  power = a;
  ROLLED for (int d = 1; d < entries; d++) {
    if (d > 1) power = multiply(power, a, m);
    store_number(table + d * L, power);
  }
}

FN int rows_of(int bits, int window) { return (bits + window - 1) / window; }

// --- kernels: arguments of 64 bits; a warp takes as many numbers as it has groups

// The last numbers of a batch are computed by several groups where they do not fill a warp.
#define FOR_EACH_NUMBER(i)                                                       \
  ROLLED for (i64 base = first_number(), i = number_at(base, count); base < count; \
              base += number_stride(), i = number_at(base, count))

// Plain numbers of `words` words, each below its modulus -> Montgomery form.
KERNEL enter(u32 *out, const u32 *x, i64 words, const u32 *blocks, i64 block_stride, i64 count) {
  FOR_EACH_NUMBER(i) {
    const u32 *block = blocks + i * block_stride;
    Number a;
    UNROLL for (int j = 0; j < LIMBS; j++) a.w[j] = load_plain(x + i * words, j, words);
    a = multiply(a, load_number(block + BLOCK_SQUARE), load_modulus(block));
    store_number(out + i * L, a);
  }
}

// Montgomery form -> plain numbers below their moduli. (a + q N) / R <= N for a < R.
KERNEL leave(u32 *out, const u32 *x, i64 words, const u32 *blocks, i64 block_stride, i64 count) {
  FOR_EACH_NUMBER(i) {
    Modulus m = load_modulus(blocks + i * block_stride);
    Number one, less;
    UNROLL for (int j = 0; j < LIMBS; j++) one.w[j] = 0;
    one.w[0] = is_equal(lane(), 0);
    Number a = multiply(load_number(x + i * L), one, m);
    less = a;
    word keep = 0 - subtract(less, m.n);
    UNROLL for (int j = 0; j < LIMBS; j++) {
      word r = (a.w[j] & keep) | (less.w[j] & ~keep);
      store_plain(out + i * words, j, words, r);
    }
  }
}

// out[i * out_stride] = a[i * a_stride] * b[i * b_stride]; strides count numbers.
KERNEL mul(u32 *out, i64 out_stride, const u32 *a, i64 a_stride, const u32 *b, i64 b_stride,
           const u32 *block, i64 count) {
  Modulus m = load_modulus(block);
  FOR_EACH_NUMBER(i) {
    Number r = multiply(load_number(a + i * a_stride * L), load_number(b + i * b_stride * L), m);
    store_number(out + i * out_stride * L, r);
  }
}

KERNEL take(u32 *out, const u32 *a, const i64 *index, i64 count) {
  FOR_EACH_NUMBER(i) store_number(out + i * L, load_number(a + index[i] * L));
}

// Powers by windows from the top; `tables` has 2^window numbers for each slot.
template <bool Var>
FN void powers(u32 *out, const u32 *a, const u32 *e, i64 e_stride, i64 words, i64 bits, i64 window,
               u32 *tables, const u32 *blocks, i64 block_stride, i64 count) {
  u32 *table = tables + (slot() << window) * L;
  FOR_EACH_NUMBER(i) {
    const u32 *block = blocks + i * block_stride;
    Modulus m = load_modulus(block);
    fill_table(table, load_number(a + i * L), 1 << window, block, m);
    int row = rows_of(bits, window) - 1;
    Number r = look_up<Var>(table, window, digit_of(e + i * e_stride, words, window, row));
    ROLLED while (row-- > 0) {
      ROLLED for (int j = 0; j < window; j++) r = square(r, m);
      word digit = digit_of(e + i * e_stride, words, window, row);
      r = multiply(r, look_up<Var>(table, window, digit), m);
    }
    store_number(out + i * L, r);
  }
}

KERNEL pow_sec(u32 *out, const u32 *a, const u32 *e, i64 e_stride, i64 words, i64 bits, i64 window,
               u32 *tables, const u32 *blocks, i64 block_stride, i64 count) {
  powers<false>(out, a, e, e_stride, words, bits, window, tables, blocks, block_stride, count);
}

KERNEL pow_var(u32 *out, const u32 *a, const u32 *e, i64 e_stride, i64 words, i64 bits, i64 window,
               u32 *tables, const u32 *blocks, i64 block_stride, i64 count) {
  powers<true>(out, a, e, e_stride, words, bits, window, tables, blocks, block_stride, count);
}

// tables[i][row][1] = a[i] ^ 2^(row * window); a row has 2^window numbers.
KERNEL comb_steps(u32 *tables, const u32 *a, i64 rows, i64 window, const u32 *block, i64 count) {
  Modulus m = load_modulus(block);
  FOR_EACH_NUMBER(i) {
    Number r = load_number(a + i * L);
    ROLLED for (i64 row = i * rows; row < (i + 1) * rows; row++) {
      store_number(tables + ((row << window) + 1) * L, r);
      ROLLED for (int j = 0; j < window; j++) r = square(r, m);
    }
  }
}

// tables[i][d] = a[i * stride] ^ d for d < 2^window; strides count numbers.
KERNEL fill(u32 *tables, const u32 *a, i64 stride, i64 window, const u32 *block, i64 count) {
  Modulus m = load_modulus(block);
  FOR_EACH_NUMBER(i) {
    Number x = load_number(a + i * stride * L);
    fill_table(tables + (i << window) * L, x, 1 << window, block, m);
  }
}

// Products of a number from each row of a comb table.
KERNEL comb(u32 *out, const u32 *table, const u32 *e, i64 words, i64 rows, i64 window,
            const u32 *block, i64 count) {
  Modulus m = load_modulus(block);
  FOR_EACH_NUMBER(i) {
    const u32 *digits = e + i * words;
    Number r = select(table, 1 << window, digit_of(digits, words, window, 0));
    ROLLED for (int row = 1; row < rows; row++) {
      word digit = digit_of(digits, words, window, row);
      r = multiply(r, select(table + ((i64)row << window) * L, 1 << window, digit), m);
    }
    store_number(out + i * L, r);
  }
}

// out[c * columns + j] = prod of tables[k][1] ^ e[k][j] over share c of the bases k, `share` each.
template <bool Var>
FN void straus(u32 *out, const u32 *tables, const u32 *e, i64 bases, i64 columns, i64 share,
               i64 bits, i64 window, const u32 *block, i64 count) {
  Modulus m = load_modulus(block);
  FOR_EACH_NUMBER(i) {
    i64 first = i / columns * share, column = i % columns;
    Number r = load_number(block + BLOCK_ONE);
    ROLLED for (int row = rows_of(bits, window) - 1; row >= 0; row--) {
      ROLLED for (int j = 0; j < window; j++) r = square(r, m);
      ROLLED for (i64 s = 0; s < share; s++) {
        bool there = first + s < bases;  // the last share may have fewer: times 1
        i64 k = there ? first + s : bases - 1;
        word digit = digit_of(e + (k * columns + column) * 2, 2, window, row) & (there ? ~0 : 0);
        r = multiply(r, look_up<Var>(tables + (k << window) * L, window, digit), m);
      }
    }
    store_number(out + i * L, r);
  }
}

KERNEL straus_sec(u32 *out, const u32 *tables, const u32 *e, i64 bases, i64 columns, i64 share,
                  i64 bits, i64 window, const u32 *block, i64 count) {
  straus<false>(out, tables, e, bases, columns, share, bits, window, block, count);
}

KERNEL straus_var(u32 *out, const u32 *tables, const u32 *e, i64 bases, i64 columns, i64 share,
                  i64 bits, i64 window, const u32 *block, i64 count) {
  straus<true>(out, tables, e, bases, columns, share, bits, window, block, count);
}

// out[i] = prod of a[index[k]] for k from offsets[i] to offsets[i + 1]; of none: 1.
KERNEL prod(u32 *out, const u32 *a, const i64 *index, const i64 *offsets, const u32 *block,
            i64 count) {
  Modulus m = load_modulus(block);
  const u32 *one = block + BLOCK_ONE;
  FOR_EACH_NUMBER(i) {
    i64 k = offsets[i], end = offsets[i + 1];
    Number r = load_number(k < end ? a + index[k] * L : one);
    ROLLED for (k++; any_in_warp(k < end); k++)
      r = multiply(r, load_number(k < end ? a + index[k] * L : one), m);
    store_number(out + i * L, r);
  }
}
