// The kernels as a Python module: residues are rows of digits in NumPy arrays.
//
// Shapes are checked here, so that no caller can make a kernel leave its arrays; what an index may
// be is checked by `product` too. Operations release the interpreter lock and share their rows among
// the threads of a pool, in pieces of whole vectors.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "kernel.hpp"
#include "pool.hpp"

#ifndef RESIDUE_MODULE
#define RESIDUE_MODULE _native
#endif

namespace py = pybind11;

namespace residue {
namespace {

using Array = py::array_t<u64, py::array::c_style>;
using Index = py::array_t<std::int64_t, py::array::c_style>;

constexpr unsigned kLimb = 64;

const Kernel* const kKernels[] = {&kAvx512Ifma, &kAvx2, &kPortable};

void require(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

std::size_t extent(const py::array& a, int axis) {
  return static_cast<std::size_t>(a.shape(axis));
}

// `bits` bits of each limb or digit of one number to words of other bits; what is left is zero.
void repack(const u64* from, std::size_t from_words, unsigned from_bits, u64* to,
            std::size_t to_words, unsigned to_bits) {
  const u64 mask = ~u64{0} >> (64 - to_bits);
  unsigned __int128 buffer = 0;
  unsigned held = 0;
  std::size_t i = 0;
  for (std::size_t k = 0; k < to_words; ++k) {
    while (held < to_bits && i < from_words) {
      buffer |= static_cast<unsigned __int128>(from[i++]) << held;
      held += from_bits;
    }
    to[k] = static_cast<u64>(buffer) & mask;
    buffer >>= to_bits;
    held = held > to_bits ? held - to_bits : 0;
  }
}

// Moduli of one layout and the residues modulo them.
class Field {
 public:
  // Constants: (count, parts, limbs). Of moduli n, with one part: n, one = R mod n and
  // scale = R R mod n. Of moduli n n, with two parts, pairs of numbers below n or n itself:
  // n = (n, (1 - R) mod n), one = R mod n n and scale = R R R mod n n as x_0 + x_1 n.
  // inverse = -1 / n mod 2**radix: (count). bits: of n.
  Field(const std::string& kernel, std::size_t bits, const Array& n, const Array& one,
        const Array& scale, const Array& inverse, std::shared_ptr<Pool> pool)
      : kernel_(find(kernel)), pool_(std::move(pool)) {
    require(n.ndim() == 3 && one.ndim() == 3 && scale.ndim() == 3 && inverse.ndim() == 1,
            "constants of a field have three dimensions, inverses one");
    count_ = extent(n, 0);
    parts_ = extent(n, 1);
    require(parts_ == 1 || parts_ == 2, "constants have one part or two");
    require(count_ != 0 && extent(inverse, 0) == count_, "as many constants as moduli");
    for (const Array* constant : {&one, &scale}) {
      require(extent(*constant, 0) == count_ && extent(*constant, 1) == parts_,
              "as many constants as moduli");
    }
    layout_ = kernel_.layout(bits, parts_ == 2);
    require(layout_.digits != 0, "no layout for moduli of so many bits");
    n_ = pack(n);
    one_ = pack(one);
    scale_ = pack(scale);
    inverse_.assign(inverse.data(), inverse.data() + count_);
  }
  Field(const Field&) = delete;
  Field& operator=(const Field&) = delete;
  ~Field() {
    for (auto* words : {&n_, &one_, &scale_, &inverse_}) erase(*words);
  }

  std::size_t row() const { return layout_.row; }
  bool squared() const { return parts_ == 2; }

  // (n, limbs) residues below the modulus to (n, row).
  void enter(const Array& limbs, Array& out) const {
    const std::size_t rows = rows_of(out);
    require(limbs.ndim() == 2 && extent(limbs, 0) == rows, "as many results as operands");
    u64* to = out.mutable_data();
    const u64* from = limbs.data();
    const std::size_t width = extent(limbs, 1);
    const py::gil_scoped_release unlocked;
    share(rows, 2, [&](std::size_t lo, std::size_t hi) {
      for (std::size_t i = lo; i < hi; ++i) {
        u64* row = to + i * layout_.row;
        repack(from + i * width, width, kLimb, row, layout_.digits, layout_.radix);
        std::memset(row + layout_.digits, 0, (layout_.row - layout_.digits) * sizeof(u64));
      }
      u64* part = to + lo * layout_.row;
      kernel_.enter(moduli(lo), {part, hi - lo}, part_of({scale_.data(), count_}, lo), part,
                    hi - lo);
    });
  }

  // (n, row) to (n, limbs) residues below the modulus.
  void leave(const Array& a, Array& limbs) const {
    const std::size_t rows = rows_of(a);
    require(limbs.ndim() == 2 && extent(limbs, 0) == rows, "as many results as operands");
    const u64* from = a.data();
    u64* to = limbs.mutable_data();
    const std::size_t width = extent(limbs, 1);
    const py::gil_scoped_release unlocked;
    std::vector<u64> digits(rows * layout_.row);
    share(rows, 1, [&](std::size_t lo, std::size_t hi) {
      u64* part = digits.data() + lo * layout_.row;
      kernel_.leave(moduli(lo), part_of({from, rows}, lo), part, hi - lo);
      for (std::size_t i = lo; i < hi; ++i) {
        repack(digits.data() + i * layout_.row, layout_.digits, layout_.radix, to + i * width,
               width, kLimb);
      }
    });
    erase(digits);
  }

  void multiply(const Array& a, const Array& b, Array& out) const {
    const std::size_t rows = rows_of(out);
    const Rows x = operand(a, rows), y = operand(b, rows);
    u64* to = out.mutable_data();
    const py::gil_scoped_release unlocked;
    share(rows, 1, [&](std::size_t lo, std::size_t hi) {
      kernel_.multiply(moduli(lo), part_of(x, lo), part_of(y, lo), to + lo * layout_.row, hi - lo);
    });
  }

  void square(const Array& a, std::size_t times, Array& out) const {
    const std::size_t rows = rows_of(out);
    const Rows x = operand(a, rows);
    u64* to = out.mutable_data();
    const py::gil_scoped_release unlocked;
    share(rows, times, [&](std::size_t lo, std::size_t hi) {
      kernel_.square(moduli(lo), part_of(x, lo), times, to + lo * layout_.row, hi - lo);
    });
  }

  void power(const Array& a, const Array& exponents, std::size_t bits, unsigned window,
             Array& out) const {
    const std::size_t rows = rows_of(out);
    const Rows x = operand(a, rows);
    require(exponents.ndim() == 2, "exponents have two dimensions");
    const Exponents e{exponents.data(), extent(exponents, 0), extent(exponents, 1), bits};
    require(e.count == 1 || e.count == rows, "an exponent for each residue, or one");
    require(window >= 1 && window <= kMaxWindow, "a window of 1 to 6 bits");
    u64* to = out.mutable_data();
    std::atomic<bool> done = true;
    {
      const py::gil_scoped_release unlocked;
      share(rows, bits + bits / window, [&](std::size_t lo, std::size_t hi) {
        const Exponents part{e.count == 1 ? e.limbs : e.limbs + lo * e.width,
                             e.count == 1 ? 1 : e.count - lo, e.width, bits};
        if (!kernel_.power(moduli(lo), part_of(x, lo), part, window, to + lo * layout_.row,
                           hi - lo)) {
          done = false;
        }
      });
    }
    if (!done) throw std::bad_alloc();
  }

  // out[i << window | d] = a[i] ** d for d < 2**window.
  void powers(const Array& a, unsigned window, Array& out) const {
    require(window >= 1 && window <= kMaxTable, "a table of 1 to 16 bits");
    const std::size_t rows = rows_of(a);
    require(out.ndim() == 2 && extent(out, 1) == layout_.row && extent(out, 0) == rows << window,
            "a row of the table for each power");
    const u64* from = a.data();
    u64* to = out.mutable_data();
    const py::gil_scoped_release unlocked;
    share(rows, std::size_t{1} << window, [&](std::size_t lo, std::size_t hi) {
      kernel_.powers(moduli(lo), part_of({from, rows}, lo), window,
                     to + (lo << window) * layout_.row, hi - lo);
    });
  }

  // out[s] = the product of a[index[offsets[s]:offsets[s + 1]]] for s in order; with squarings and
  // prefixes as `Segments` says.
  void product(const Array& a, const Index& index, const Index& offsets, const Index& order,
               std::size_t squarings, bool prefixes, Array& out) const {
    require(count_ == 1, "products have one modulus");
    const std::size_t rows = rows_of(a), segments = rows_of(out);
    require(index.ndim() == 1 && offsets.ndim() == 1 && order.ndim() == 1 &&
                extent(offsets, 0) == segments + 1,
            "an offset for each segment and one more");
    const Segments s{index.data(), offsets.data(), order.data(), 0, extent(order, 0),
                     squarings,    prefixes,       nullptr,      0};
    const std::size_t length = extent(index, 0);
    u64* to = out.mutable_data();
    const u64* from = a.data();
    const py::gil_scoped_release unlocked;
    bool inside = true;
    std::size_t total = 0;
    const std::int64_t first = segments == 0 ? 0 : s.offsets[1] - s.offsets[0];
    for (std::size_t i = 0; inside && i < s.end; ++i) {
      const auto segment = static_cast<u64>(s.order[i]);
      if (!(inside = segment < segments)) break;
      const std::int64_t begin = s.offsets[segment], end = s.offsets[segment + 1];
      inside = 0 <= begin && end <= static_cast<std::int64_t>(length);
      if (squarings != 0 || prefixes) inside &= end - begin == first;
      for (std::int64_t k = begin; inside && k < end; ++k) {
        inside = static_cast<u64>(s.index[k]) < rows;
      }
      total += end > begin ? static_cast<std::size_t>(end - begin) : 0;
    }
    require(inside, "an index, an offset or a segment lies outside, or lengths differ");
    multiply_all(from, s, total / (s.end + 1) * (1 + squarings + prefixes) + 1, to);
  }

  // out[s] = the product of rows (i << window) + (digit i of exponent s) of the table, for digits
  // of `window` bits.
  void comb(const Array& table, const Array& exponents, std::size_t bits, unsigned window,
            Array& out) const {
    require(count_ == 1, "combs have one modulus");
    require(window >= 1 && window <= kMaxTable, "a table of 1 to 16 bits");
    const std::size_t segments = rows_of(out), positions = (bits + window - 1) / window;
    require(rows_of(table) == positions << window, "a row of the table for each digit");
    require(exponents.ndim() == 2 && extent(exponents, 0) == segments,
            "an exponent for each result");
    const Exponents e{exponents.data(), segments, extent(exponents, 1), bits};
    const std::int64_t offsets[] = {0, static_cast<std::int64_t>(positions)};
    const Segments s{nullptr, offsets, nullptr, 0, segments, 0, false, &e, window};
    u64* to = out.mutable_data();
    const u64* from = table.data();
    const py::gil_scoped_release unlocked;
    multiply_all(from, s, positions, to);
  }

  // out[i] = 1 + m[i] n modulo n n.
  void binomials(const Index& m, Array& out) const {
    const std::size_t rows = rows_of(out);
    require(squared() && m.ndim() == 1 && extent(m, 0) == rows, "as many results as numbers");
    const std::int64_t* from = m.data();
    u64* to = out.mutable_data();
    const py::gil_scoped_release unlocked;
    share(rows, 2, [&](std::size_t lo, std::size_t hi) {
      kernel_.binomials(moduli(lo), from + lo, part_of({scale_.data(), count_}, lo),
                        to + lo * layout_.row, hi - lo);
    });
  }

  // out[i] = the sum of weights[t] times limbs[i, words t : words (t + 1)], numbers below n n.
  void weighted_sum(const Array& limbs, std::size_t words, const Array& weights, Array& out) const {
    const std::size_t rows = rows_of(out), terms = rows_of(weights);
    require(squared() && count_ == 1, "sums have one modulus, a square");
    require(limbs.ndim() == 2 && extent(limbs, 0) == rows, "as many results as operands");
    const std::size_t width = extent(limbs, 1);
    require(terms >= 1 && terms <= 3 && (terms - 1) * words < width && width <= terms * words,
            "a weight for each part, and three at most");
    const u64* from = limbs.data();
    const u64* by = weights.data();
    u64* to = out.mutable_data();
    const py::gil_scoped_release unlocked;
    const std::size_t stride = rows * layout_.row;
    std::vector<u64> digits(terms * stride);
    share(rows, 2 * terms + 1, [&](std::size_t lo, std::size_t hi) {
      for (std::size_t t = 0; t < terms; ++t) {
        for (std::size_t i = lo; i < hi; ++i) {
          repack(from + i * width + t * words, std::min(words, width - t * words), kLimb,
                 digits.data() + t * stride + i * layout_.row, layout_.digits, layout_.radix);
        }
      }
      kernel_.weighted_sum(moduli(lo), digits.data() + lo * layout_.row, stride, {by, terms},
                           {scale_.data(), 1}, to + lo * layout_.row, hi - lo);
    });
  }

  // limbs[i] = m for a[i] = 1 + m n modulo n n; whether all are of that form.
  bool logarithms(const Array& a, Array& limbs) const {
    const std::size_t rows = rows_of(a), half = layout_.digits / 2;
    require(squared() && limbs.ndim() == 2 && extent(limbs, 0) == rows,
            "as many results as operands");
    const u64* from = a.data();
    u64* to = limbs.mutable_data();
    const std::size_t width = extent(limbs, 1);
    const py::gil_scoped_release unlocked;
    std::vector<u64> digits(rows * layout_.row);
    std::atomic<u64> others = 0;
    share(rows, 1, [&](std::size_t lo, std::size_t hi) {
      u64* part = digits.data() + lo * layout_.row;
      kernel_.pairs(moduli(lo), part_of({from, rows}, lo), part, hi - lo);
      u64 other = 0;
      for (std::size_t i = lo; i < hi; ++i) {
        const u64* pair = digits.data() + i * layout_.row;
        other |= pair[0] ^ 1;
        for (std::size_t k = 1; k < half; ++k) other |= pair[k];
        repack(pair + half, half, layout_.radix, to + i * width, width, kLimb);
      }
      others |= other;
    });
    erase(digits);
    return others == 0;
  }

  static const Kernel& find(const std::string& name) {
    for (const Kernel* kernel : kKernels) {
      if (name == kernel->name && kernel->available()) return *kernel;
    }
    throw std::invalid_argument("no such kernel here: " + name);
  }

 private:
  static constexpr unsigned kMaxWindow = 6, kMaxTable = 16;
  static constexpr std::size_t kPieces = 32;          // of a thread, at most
  static constexpr std::size_t kLeastPiece = 16'000;  // products of digits in a lane: some 5 us

  static void erase(std::vector<u64>& words) {
    std::memset(words.data(), 0, words.size() * sizeof(u64));
    __asm__ __volatile__("" : : "r"(words.data()) : "memory");
  }

  // Moduli of the rows from `first` on.
  Moduli moduli(std::size_t first) const {
    const std::size_t skip = count_ == 1 ? 0 : first;
    return {layout_.digits,
            layout_.row,
            layout_.radix,
            parts_ == 2,
            count_ - skip,
            n_.data() + skip * layout_.row,
            inverse_.data() + skip,
            one_.data() + skip * layout_.row};
  }

  // The rows from `first` on.
  Rows part_of(Rows a, std::size_t first) const {
    return a.count == 1 ? a : Rows{a.digits + first * layout_.row, a.count - first};
  }

  void multiply_all(const u64* a, const Segments& s, std::size_t products, u64* out) const {
    share(s.end, products, [&](std::size_t lo, std::size_t hi) {
      Segments part = s;
      part.begin = lo;
      part.end = hi;
      kernel_.product(moduli(0), a, part, out);
    });
  }

  // Calls work(lo, hi) for parts of [0, rows), of `products` products a row.
  template <class F>
  void share(std::size_t rows, std::size_t products, F work) const {
    const std::size_t lanes = kernel_.lanes, groups = (rows + lanes - 1) / lanes;
    const std::size_t cost = groups * products * layout_.digits * layout_.digits;
    const std::size_t pieces =
        std::min({groups, kPieces * pool_->threads(), cost / kLeastPiece});
    if (pieces < 2 || pool_->threads() < 2) {
      if (rows != 0) work(0, rows);
      return;
    }
    pool_->run(pieces, [&](std::size_t piece) {
      const auto cut = [&](std::size_t i) { return std::min(rows, groups * i / pieces * lanes); };
      work(cut(piece), cut(piece + 1));
    });
  }

  std::vector<u64> pack(const Array& limbs) const {
    std::vector<u64> result(count_ * layout_.row);
    const std::size_t width = extent(limbs, 2), digits = layout_.digits / parts_;
    for (std::size_t i = 0; i < count_; ++i) {
      for (std::size_t part = 0; part < parts_; ++part) {
        repack(limbs.data() + (i * parts_ + part) * width, width, kLimb,
               result.data() + i * layout_.row + part * digits, digits, layout_.radix);
      }
    }
    return result;
  }

  std::size_t rows_of(const Array& a) const {
    require(a.ndim() == 2 && extent(a, 1) == layout_.row, "residues are rows of digits");
    const std::size_t rows = extent(a, 0);
    require(count_ == 1 || rows <= count_, "a modulus for each residue, or one");
    return rows;
  }

  Rows operand(const Array& a, std::size_t rows) const {
    const std::size_t count = rows_of(a);
    require(count == rows || count == 1, "as many operands as results, or one");
    return {a.data(), count};
  }

  const Kernel& kernel_;
  const std::shared_ptr<Pool> pool_;
  Layout layout_;
  std::size_t count_, parts_;  // numbers of a residue
  std::vector<u64> n_, one_, scale_, inverse_;
};

std::vector<std::string> kernels() {
  std::vector<std::string> names;
  for (const Kernel* kernel : kKernels) {
    if (kernel->available()) names.emplace_back(kernel->name);
  }
  return names;
}

std::tuple<std::size_t, unsigned> layout_of(const std::string& kernel, std::size_t bits,
                                            bool squared) {
  const Layout layout = Field::find(kernel).layout(bits, squared);
  return {layout.digits, layout.radix};
}

}  // namespace
}  // namespace residue

PYBIND11_MODULE(RESIDUE_MODULE, m) {
  using residue::Field;
  m.doc() = "Montgomery arithmetic on rows of digits; see module.cpp.";
  m.def("kernels", &residue::kernels, "Kernels that this processor can run, the fastest first.");
  m.def("layout", &residue::layout_of, py::arg("kernel"), py::arg("bits"),
        py::arg("squared") = false,
        "(digits, radix) of residues for moduli of so many bits, or for squares of such; no digits "
        "if they are too large.");
  m.def("lanes", [](const std::string& name) { return Field::find(name).lanes; },
        py::arg("kernel"), "Residues that a kernel computes at a time.");
  using residue::Pool;
  py::class_<Pool, std::shared_ptr<Pool>>(m, "Pool", py::module_local(),
                                           "Threads of a backend.")
      .def(py::init<std::size_t>(), py::arg("threads"))
      .def("close", &Pool::close, py::call_guard<py::gil_scoped_release>(), "End the threads.");
  py::class_<Field>(m, "Field")
      .def(py::init<const std::string&, std::size_t, const residue::Array&, const residue::Array&,
                    const residue::Array&, const residue::Array&, std::shared_ptr<Pool>>(),
           py::arg("kernel"), py::arg("bits"), py::arg("n").noconvert(),
           py::arg("one").noconvert(), py::arg("scale").noconvert(),
           py::arg("inverse").noconvert(), py::arg("pool"))
      .def_property_readonly("row", &Field::row)
      .def_property_readonly("squared", &Field::squared)
      .def("enter", &Field::enter, py::arg("limbs").noconvert(), py::arg("out").noconvert())
      .def("leave", &Field::leave, py::arg("a").noconvert(), py::arg("out").noconvert())
      .def("multiply", &Field::multiply, py::arg("a").noconvert(), py::arg("b").noconvert(),
           py::arg("out").noconvert())
      .def("square", &Field::square, py::arg("a").noconvert(), py::arg("times"),
           py::arg("out").noconvert())
      .def("power", &Field::power, py::arg("a").noconvert(), py::arg("exponents").noconvert(),
           py::arg("bits"), py::arg("window"), py::arg("out").noconvert())
      .def("powers", &Field::powers, py::arg("a").noconvert(), py::arg("window"),
           py::arg("out").noconvert())
      .def("comb", &Field::comb, py::arg("table").noconvert(), py::arg("exponents").noconvert(),
           py::arg("bits"), py::arg("window"), py::arg("out").noconvert())
      .def("product", &Field::product, py::arg("a").noconvert(), py::arg("index").noconvert(),
           py::arg("offsets").noconvert(), py::arg("order").noconvert(), py::arg("squarings"),
           py::arg("prefixes"), py::arg("out").noconvert())
      .def("binomials", &Field::binomials, py::arg("m").noconvert(), py::arg("out").noconvert())
      .def("weighted_sum", &Field::weighted_sum, py::arg("limbs").noconvert(), py::arg("words"),
           py::arg("weights").noconvert(), py::arg("out").noconvert())
      .def("logarithms", &Field::logarithms, py::arg("a").noconvert(),
           py::arg("limbs").noconvert());
}
