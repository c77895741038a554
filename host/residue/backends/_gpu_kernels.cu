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

FN Number multiply(const Number &a, const Number &b, const Modulus &m) {
  word x[LIMBS], y[LIMBS], low = 0, high = 0;
  UNROLL for (int j = 0; j < LIMBS; j++) x[j] = y[j] = 0;
  ROLLED for (int t = 0; t < THREADS; t++) {
    UNROLL for (int j = 0; j < LIMBS; j += 2) {
      step(x, y, low, high, a, broadcast(b.w[j], t), m);
      step(y, x, low, high, a, broadcast(b.w[j + 1], t), m);
    }
  }
  Number r;  // the move that a further step would begin with
  r.w[0] = add_cc(x[0], y[1]);
  UNROLL for (int j = 1; j < LIMBS - 1; j++) r.w[j] = addc_cc(x[j], y[j + 1]);
  r.w[LIMBS - 1] = addc_cc(x[LIMBS - 1], low);
  word over = add_carries(r, addc(high, 0));
  CHECK_AT_MOST(over, 1);
  Number n;
  UNROLL for (int j = 0; j < LIMBS; j++) n.w[j] = m.n.w[j] & (0 - over);
  word under = subtract(r, n);
  CHECK_AT_MOST(over ^ under, 0);
  return r;
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
      ROLLED for (int j = 0; j < window; j++) r = multiply(r, r, m);
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
      ROLLED for (int j = 0; j < window; j++) r = multiply(r, r, m);
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
      ROLLED for (int j = 0; j < window; j++) r = multiply(r, r, m);
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
