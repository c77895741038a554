// A kernel's operations for one type of lanes: rows into lanes, products, and back.

#pragma once

#include <cstdlib>
#include <cstring>

#include "kernel.hpp"

namespace residue {

template <class V>
struct Batch {
  static constexpr std::size_t L = V::kLanes;
  using Word = typename V::Word;
  using Pointers = const u64* [L];

  // Digits of kLanes rows side by side: `row` words of each.
  static void gather(const Pointers& rows, std::size_t row, u64* lanes) {
    for (std::size_t k = 0; k < row; k += L) {
      Word x[L];
      for (std::size_t l = 0; l < L; ++l) x[l] = V::load(rows[l] + k);
      V::transpose(x);
      for (std::size_t l = 0; l < L; ++l) V::store(lanes + (k + l) * L, x[l]);
    }
  }

  // The first `count` lanes into rows; words past the digits become zero.
  static void scatter(u64* lanes, std::size_t digits, std::size_t row, u64* const* rows,
                      std::size_t count) {
    for (std::size_t k = digits; k < row; ++k) V::store(lanes + k * L, V::all(0));
    for (std::size_t k = 0; k < row; k += L) {
      Word x[L];
      for (std::size_t l = 0; l < L; ++l) x[l] = V::load(lanes + (k + l) * L);
      V::transpose(x);
      for (std::size_t l = 0; l < count; ++l) V::store(rows[l] + k, x[l]);
    }
  }

  // Lanes for rows [first, first + kLanes) of n; the last row stands in for those past the end.
  struct Operand {
    alignas(64) u64 lanes[(kMaxDigits + L) * L];

    void load(const u64* rows, std::size_t count, std::size_t row, std::size_t first) {
      if (count == 1 && first != 0) return;  // loaded with the first
      Pointers pointers;
      for (std::size_t l = 0; l < L; ++l) {
        const std::size_t i = first + l;
        pointers[l] = rows + (i < count ? i : count - 1) * row;
      }
      gather(pointers, row, lanes);
    }
  };

  static void load_moduli(const Moduli& m, std::size_t first, Lanes<V>& f, Operand& scratch) {
    if (m.count == 1 && first != 0) return;
    f.digits = m.squared ? m.digits / 2 : m.digits;
    f.radix = m.radix;
    f.squared = m.squared;
    scratch.load(m.n, m.count, m.row, first);
    std::memcpy(f.n, scratch.lanes, m.digits * L * sizeof(u64));
    for (std::size_t l = 0; l < L; ++l) {
      const std::size_t i = first + l;
      f.inverse[l] = m.inverse[i < m.count ? i : m.count - 1];
    }
  }

  static void store_rows(u64* lanes, const Moduli& m, u64* out, std::size_t first, std::size_t n) {
    u64* rows[L];
    std::size_t count = 0;
    for (; count < L && first + count < n; ++count) rows[count] = out + (first + count) * m.row;
    scatter(lanes, m.digits, m.row, rows, count);
  }

  static void times(const Lanes<V>& f, const u64* a, const u64* b, u64* out) {
    f.squared ? multiply_pairs(f, a, b, out) : residue::multiply(f, a, b, out);
  }

  static void twice(const Lanes<V>& f, const u64* a, u64* out) {
    f.squared ? square_pairs(f, a, out) : residue::square(f, a, out);
  }

  static void enter(const Moduli& m, Rows a, Rows scale, u64* out, std::size_t n) {
    Lanes<V> f;
    Operand x, y;
    for (std::size_t i = 0; i < n; i += L) {
      load_moduli(m, i, f, x);
      x.load(a.digits, a.count, m.row, a.count == 1 ? 0 : i);
      y.load(scale.digits, scale.count, m.row, i);
      if (m.squared) split(f, x.lanes, x.lanes);
      times(f, x.lanes, y.lanes, x.lanes);
      store_rows(x.lanes, m, out, i, n);
    }
  }

  static void multiply(const Moduli& m, Rows a, Rows b, u64* out, std::size_t n) {
    if (a.digits == b.digits && a.count == b.count) return square(m, a, 1, out, n);
    Lanes<V> f;
    Operand x, y;
    for (std::size_t i = 0; i < n; i += L) {
      load_moduli(m, i, f, x);
      x.load(a.digits, a.count, m.row, a.count == 1 ? 0 : i);
      y.load(b.digits, b.count, m.row, i);
      times(f, x.lanes, y.lanes, x.lanes);
      store_rows(x.lanes, m, out, i, n);
    }
  }

  // out[i] = what change(f, x) makes of a[i] in x.
  template <class F>
  static void each(const Moduli& m, Rows a, u64* out, std::size_t n, F change) {
    Lanes<V> f;
    Operand x;
    for (std::size_t i = 0; i < n; i += L) {
      load_moduli(m, i, f, x);
      x.load(a.digits, a.count, m.row, a.count == 1 ? 0 : i);
      change(f, x.lanes);
      store_rows(x.lanes, m, out, i, n);
    }
  }

  static void square(const Moduli& m, Rows a, std::size_t times, u64* out, std::size_t n) {
    each(m, a, out, n, [times](const Lanes<V>& f, u64* x) {
      for (std::size_t time = 0; time < times; ++time) twice(f, x, x);
    });
  }

  static void leave(const Moduli& m, Rows a, u64* out, std::size_t n) {
    each(m, a, out, n, [](const Lanes<V>& f, u64* x) {
      f.squared ? leave_pairs(f, x, x) : residue::leave(f, x, x);
    });
  }

  // Bits [at, at + window) of an exponent.
  static u64 window_of(const Exponents& e, std::size_t i, std::size_t at, unsigned window) {
    const u64* limbs = e.limbs + (e.count == 1 ? 0 : i) * e.width;
    const std::size_t limb = at / 64, shift = at % 64;
    u64 bits = limb < e.width ? limbs[limb] >> shift : 0;
    if (shift != 0 && limb + 1 < e.width) bits |= limbs[limb + 1] << (64 - shift);
    return bits & ((u64{1} << window) - 1);
  }

  // Digits of an entry of a table that `select` reads, kTile at a time.
  static std::size_t in_tiles(std::size_t digits) { return (digits + kTile - 1) / kTile * kTile; }

  // out = the entry of the table that each lane's exponent names; all entries are read.
  static void select(const u64* table, const Moduli& m, const Exponents& e, std::size_t first,
                     std::size_t n, std::size_t at, unsigned window, u64* out) {
    alignas(64) u64 masks[(std::size_t{1} << kMaxWindow) * L];
    const std::size_t entries = std::size_t{1} << window;
    for (std::size_t l = 0; l < L; ++l) {
      const u64 wanted = window_of(e, first + l < n ? first + l : n - 1, at, window);
      for (std::size_t entry = 0; entry < entries; ++entry) {
        masks[entry * L + l] = (((wanted ^ entry) - 1) >> 63) * ~u64{0};
      }
    }
    for (std::size_t k = 0; k < m.digits; k += kTile) {
      Word x[kTile];
      for (std::size_t i = 0; i < kTile; ++i) x[i] = V::all(0);
      for (std::size_t entry = 0; entry < entries; ++entry) {
        const Word mask = V::load(masks + entry * L);
        const u64* from = table + (entry * in_tiles(m.digits) + k) * L;
        for (std::size_t i = 0; i < kTile; ++i) {
          x[i] = V::either(x[i], V::both(V::load(from + i * L), mask));
        }
      }
      for (std::size_t i = 0; i < kTile; ++i) V::store(out + (k + i) * L, x[i]);
    }
    erase(masks, sizeof masks);
  }

  static bool power(const Moduli& m, Rows a, Exponents e, unsigned window, u64* out,
                    std::size_t n) {
    const std::size_t entry = in_tiles(m.digits) * L, entries = std::size_t{1} << window;
    const std::size_t bytes = entries * entry * sizeof(u64);
    u64* table = static_cast<u64*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    if (table == nullptr) return false;
    Lanes<V> f;
    Operand x, y;
    for (std::size_t i = 0; i < n; i += L) {
      load_moduli(m, i, f, x);
      x.load(m.one, m.count, m.row, m.count == 1 ? 0 : i);
      std::memcpy(table, x.lanes, entry * sizeof(u64));
      y.load(a.digits, a.count, m.row, a.count == 1 ? 0 : i);
      std::memcpy(table + entry, y.lanes, entry * sizeof(u64));
      for (std::size_t d = 2; d < entries; ++d) {
        if (d % 2 == 0) {
          twice(f, table + d / 2 * entry, table + d * entry);
        } else {
          times(f, table + (d - 1) * entry, table + entry, table + d * entry);
        }
      }
      const std::size_t windows = (e.bits + window - 1) / window;
      std::memcpy(x.lanes, table, entry * sizeof(u64));
      for (std::size_t w = windows; w-- > 0;) {
        select(table, m, e, i, n, w * window, window, y.lanes);
        if (w + 1 == windows) {
          std::memcpy(x.lanes, y.lanes, entry * sizeof(u64));
          continue;
        }
        for (unsigned s = 0; s < window; ++s) twice(f, x.lanes, x.lanes);
        times(f, x.lanes, y.lanes, x.lanes);
      }
      store_rows(x.lanes, m, out, i, n);
    }
    erase(table, bytes);
    erase(&y, sizeof y);
    std::free(table);
    return true;
  }

  static void powers(const Moduli& m, Rows a, unsigned window, u64* out, std::size_t n) {
    const std::size_t entries = std::size_t{1} << window;
    Lanes<V> f;
    Operand base, x;
    for (std::size_t i = 0; i < n; i += L) {
      load_moduli(m, i, f, base);
      base.load(a.digits, a.count, m.row, a.count == 1 ? 0 : i);
      const std::size_t count = n - i < L ? n - i : L;
      const auto entry = [&](std::size_t l, std::size_t d) {
        return out + ((i + (l < count ? l : count - 1)) * entries + d) * m.row;
      };
      const auto store = [&](Operand& from, std::size_t d) {
        u64* rows[L];
        for (std::size_t l = 0; l < count; ++l) rows[l] = entry(l, d);
        scatter(from.lanes, m.digits, m.row, rows, count);
      };
      x.load(m.one, m.count, m.row, m.count == 1 ? 0 : i);
      store(x, 0);
      store(base, 1);
      for (std::size_t d = 2; d < entries; ++d) {
        if (d % 2 == 0) {
          Pointers half;
          for (std::size_t l = 0; l < L; ++l) half[l] = entry(l, d / 2);
          gather(half, m.row, x.lanes);
          twice(f, x.lanes, x.lanes);
        } else {
          times(f, x.lanes, base.lanes, x.lanes);
        }
        store(x, d);
      }
    }
  }

  static void product(const Moduli& m, const u64* a, const Segments& s, u64* out) {
    Lanes<V> f;
    Operand x, y, prefix;
    load_moduli(m, 0, f, x);
    for (std::size_t i = s.begin; i < s.end; i += L) {
      std::int64_t at[L], end[L], segments[L], longest = 0;
      u64* results[L];
      std::size_t count = 0;
      for (std::size_t l = 0; l < L; ++l) {
        at[l] = end[l] = segments[l] = 0;
        if (i + l >= s.end) continue;
        const std::int64_t segment = segments[l] = s.order == nullptr ? i + l : s.order[i + l];
        at[l] = s.exponents ? 0 : s.offsets[segment];
        end[l] = s.exponents ? s.offsets[1] : s.offsets[segment + 1];
        if (end[l] - at[l] > longest) longest = end[l] - at[l];
        results[count++] = out + static_cast<std::size_t>(segment) * m.row;
      }
      const auto factor = [&](std::size_t l) {
        if (at[l] >= end[l]) return m.one;
        const auto k = static_cast<std::size_t>(at[l]);
        if (s.exponents == nullptr) return a + static_cast<std::size_t>(s.index[k]) * m.row;
        const auto segment = static_cast<std::size_t>(segments[l]);
        const u64 digit = window_of(*s.exponents, segment, k * s.window, s.window);
        return a + ((k << s.window) + digit) * m.row;
      };
      Pointers rows;
      for (std::size_t l = 0; l < L; ++l) rows[l] = factor(l);
      const auto advance = [&](Operand& to) {  // and fetch what comes next
        gather(rows, m.row, to.lanes);
        for (std::size_t l = 0; l < L; ++l) {
          ++at[l];
          rows[l] = factor(l);
          for (std::size_t k = 0; k < m.row; k += 8) __builtin_prefetch(rows[l] + k);
        }
      };
      advance(x);
      if (s.prefixes) std::memcpy(prefix.lanes, x.lanes, m.digits * L * sizeof(u64));
      for (std::int64_t step = 1; step < longest; ++step) {
        advance(y);
        for (std::size_t time = 0; time < s.squarings; ++time) twice(f, x.lanes, x.lanes);
        if (s.prefixes) {
          times(f, prefix.lanes, y.lanes, prefix.lanes);
          times(f, x.lanes, prefix.lanes, x.lanes);
        } else {
          times(f, x.lanes, y.lanes, x.lanes);
        }
      }
      scatter(x.lanes, m.digits, m.row, results, count);
    }
  }

  static void binomials(const Moduli& m, const std::int64_t* values, Rows scale, u64* out,
                        std::size_t n) {
    Lanes<V> f;
    Operand x, y;
    const u64 mask = (u64{1} << m.radix) - 1;
    for (std::size_t i = 0; i < n; i += L) {
      load_moduli(m, i, f, x);
      y.load(scale.digits, scale.count, m.row, i);
      alignas(64) u64 negative[L];
      for (std::size_t l = 0; l < L; ++l) {
        const std::int64_t value = values[i + l < n ? i + l : n - 1];
        negative[l] = static_cast<u64>(value >> 63);
        for (std::size_t k = 0; k < f.digits; ++k) {
          const std::size_t shift = k * m.radix;
          x.lanes[k * L + l] = static_cast<u64>(value >> (shift < 63 ? shift : 63)) & mask;
        }
      }
      for (std::size_t k = 0; k < f.digits; ++k) {  // modulo R: value + n where it is negative
        u64* digit = x.lanes + k * L;
        V::store(digit, V::add(V::load(digit), V::both(V::load(f.n + k * L), V::load(negative))));
      }
      carry_digits(f, x.lanes, f.digits, x.lanes);
      binomial_pair(f, x.lanes, x.lanes);
      times(f, x.lanes, y.lanes, x.lanes);
      store_rows(x.lanes, m, out, i, n);
    }
  }

  // A sum of three pairs is below 6 n; times scale, below n, that is 12 n n at most, less than R n.
  static void weighted_sum(const Moduli& m, const u64* a, std::size_t stride, Rows weights,
                           Rows scale, u64* out, std::size_t n) {
    Lanes<V> f;
    Operand x, y, sum;
    for (std::size_t i = 0; i < n; i += L) {
      load_moduli(m, i, f, x);
      clear<V>(sum.lanes, m.digits);
      for (std::size_t t = 0; t < weights.count; ++t) {
        x.load(a + t * stride, n, m.row, i);
        y.load(weights.digits + t * m.row, 1, m.row, 0);
        split(f, x.lanes, x.lanes);
        times(f, x.lanes, y.lanes, x.lanes);
        add_words<V>(sum.lanes, x.lanes, m.digits, m.digits, sum.lanes);
      }
      carry_digits(f, sum.lanes, f.digits, sum.lanes);
      carry_digits(f, sum.lanes + f.digits * L, f.digits, sum.lanes + f.digits * L);
      y.load(scale.digits, 1, m.row, 0);
      times(f, sum.lanes, y.lanes, x.lanes);
      store_rows(x.lanes, m, out, i, n);
    }
  }

  static void pairs(const Moduli& m, Rows a, u64* out, std::size_t n) {
    each(m, a, out, n, [](const Lanes<V>& f, u64* x) { canonical_pair(f, x, x); });
  }

  static constexpr unsigned kMaxWindow = 6;

  // Overwrite secrets; the compiler may not leave it out.
  static void erase(void* p, std::size_t bytes) {
    std::memset(p, 0, bytes);
    __asm__ __volatile__("" : : "r"(p) : "memory");
  }

  static constexpr Kernel kernel(const char* name, bool (*available)()) {
    return {name,   available, &layout<V>, L,        &multiply,  &square,       &enter,
            &leave, &power,    &powers,    &product, &binomials, &weighted_sum, &pairs};
  }
};

}  // namespace residue
