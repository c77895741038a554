// The Verilated residue_card, the memory of its board and its register port, as a C ABI.
//
// One clock is two evaluations: inputs change and settle with the clock low, handshakes are
// sampled, then the rising edge. The memory is one region of lazily committed pages; it answers
// each of the card's masters as an AXI4 slave with a chosen latency and, in random mode, pauses on
// every channel. Reads and writes of a master are answered in order. What breaks AXI4's rules (or
// this model's: full-width INCR bursts) stops the model with a message.
//
// Built with RESIDUE_FAULTS, the content of the card's stores (the arrays mem_q of residue_ram) can be
// read and struck.
//
// Not thread-safe, except card_stop.

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "verilated.h"
#include "verilated_sym_props.h"
#include "verilated_syms.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
#endif

namespace {

constexpr uint64_t kBoundary = 4096;  // bursts must not cross it
constexpr unsigned kBurstsOutstanding = 32;
constexpr uint64_t kRegisterTimeout = 10'000;  // cycles
constexpr uint8_t kOkay = 0, kSlverr = 2, kDecerr = 3;

enum Status : int { kBudgetSpent = 0, kReached = 1, kInterrupted = 2, kFailed = -1 };

enum FaultKind : int {
  kReadError = 0,
  kWriteError = 1,
  kHang = 2,
  kFlip = 3,
  kReadDecodeError = 4,
  kWriteDecodeError = 5,
  kReadFlip = 6,
};

struct Fault {
  FaultKind kind;
  uint64_t low, high;  // [low, high)
  unsigned bit;        // of the beat, for kFlip and kReadFlip
  int64_t count;       // beats it still hits; negative: for ever
  uint64_t skip;       // beats that it lets pass first
};

// A store on the card: rows of bits, each in row_bytes bytes.
struct Store {
  std::string name;
  uint8_t* data;
  unsigned rows, row_bytes, bits;
};

constexpr uint64_t kNever = std::numeric_limits<uint64_t>::max();

// Scopes are listed in the context of the thread that makes or ends a model.
class ThisContext {
 public:
  explicit ThisContext(VerilatedContext* context) : before_{Verilated::threadContextp()} {
    Verilated::threadContextp(context);
  }
  ThisContext(const ThisContext&) = delete;
  ThisContext& operator=(const ThisContext&) = delete;
  ~ThisContext() { Verilated::threadContextp(before_); }

 private:
  VerilatedContext* const before_;
};

// What befalls the card once, while it is at work: a reset, or a flipped bit in a store.
struct Strike {
  uint64_t at = kNever;  // cycle
  const Store* store = nullptr;  // null: a pulse on the reset input
  unsigned row = 0, bit = 0;  // of the first row from `row` on that is not zero
};

// Bursts wait here in order of arrival.
template <typename T>
class Fifo {
 public:
  bool empty() const { return size_ == 0; }
  bool full() const { return size_ == kBurstsOutstanding; }
  T& front() { return slots_[head_]; }
  T& back() { return slots_[(head_ + size_ - 1) % kBurstsOutstanding]; }
  void push(const T& value) {
    ++size_;
    back() = value;
  }
  void pop() {
    head_ = (head_ + 1) % kBurstsOutstanding;
    --size_;
  }
  void clear() { size_ = 0; }

 private:
  std::array<T, kBurstsOutstanding> slots_{};
  unsigned head_ = 0, size_ = 0;
};

// What a watcher of the buses sees of a burst that the card asks for; `card_watched` hands it out as
// four words.
struct Seen {
  uint64_t cycle, address, length, channel;  // channel: 2 * master, and 1 more for writes
};

struct Burst {
  uint64_t address, ready_at;
  unsigned beats;
  uint8_t response;
  uint32_t id;
};

// Element `index` of a packed array port of `Bits` bits an element: Verilator makes integers of up to
// 64 bits of it, and above that arrays of 32-bit words, little-endian like this machine.
template <unsigned Bits, typename Signal>
uint64_t get(const Signal& signal, unsigned index) {
  static_assert(Bits <= 64);
  uint64_t value = 0;
  if constexpr (Bits % 8 == 0) {
    std::memcpy(&value, reinterpret_cast<const uint8_t*>(&signal) + index * (Bits / 8), Bits / 8);
  } else {
    static_assert(sizeof(Signal) <= 8);
    value = uint64_t{signal} >> (index * Bits) & ((1u << Bits) - 1);
  }
  return value;
}

template <unsigned Bits, typename Signal>
void put(Signal& signal, unsigned index, unsigned value) {
  static_assert(sizeof(Signal) <= 8 && Bits <= 8);
  const uint64_t mask = uint64_t{(1u << Bits) - 1} << (index * Bits);
  signal = static_cast<Signal>((signal & ~mask) | (uint64_t{value} << (index * Bits) & mask));
}

constexpr unsigned kMasters = sizeof(Vtop::m_axi_araddr) / sizeof(uint64_t);
constexpr unsigned kBeatBytes = sizeof(Vtop::m_axi_rdata) / kMasters;

// What one master has under way.
struct Port {
  Fifo<Burst> reads, writes, responses;
  bool read_valid = false, response_valid = false;
};

class Card {
 public:
  Card(uint64_t base, uint64_t size, unsigned latency, bool random, uint64_t seed,
       const char* trace)
      : base_{base}, size_{size}, latency_{latency}, random_{random}, lfsr_{seed | 1} {
    memory_ = static_cast<uint8_t*>(mmap(nullptr, size, PROT_READ | PROT_WRITE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory_ == MAP_FAILED) return;
    context_.reset(new VerilatedContext);
    context_->randReset(0);
#if VM_TRACE_FST
    if (trace) context_->traceEverOn(true);
#endif
    {
      const ThisContext scopes{context_.get()};
      top_.reset(new Vtop{context_.get(), "card"});
    }
#if VM_TRACE_FST
    if (trace) {
      trace_.reset(new VerilatedFstC);
      top_->trace(trace_.get(), 99);
      trace_->open(trace);
    }
#endif
    (void)trace;
    reset();
    find_stores();
  }
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  ~Card() {
#if VM_TRACE_FST
    if (trace_) trace_->close();
#endif
    if (top_) {
      const ThisContext scopes{context_.get()};
      top_->final();
      top_.reset();
    }
    if (memory_ != MAP_FAILED) munmap(memory_, size_);
  }

  bool valid() const { return memory_ != MAP_FAILED; }
  uint8_t* memory() { return memory_; }
  uint64_t cycles() const { return cycles_; }
  bool interrupt() const { return top_->interrupt_o; }
  const char* error() const { return error_.c_str(); }
  void stop() { stop_.store(true, std::memory_order_relaxed); }

  void reset() {
    ports_ = {};
    error_.clear();
    top_->s_axil_awvalid = top_->s_axil_wvalid = top_->s_axil_arvalid = 0;
    top_->s_axil_bready = top_->s_axil_rready = 0;
    top_->s_axil_awprot = top_->s_axil_arprot = 0;
    top_->rst_n = 0;
    for (int i = 0; i < 16; ++i) tick();
    top_->rst_n = 1;
    for (int i = 0; i < 16; ++i) tick();
  }

  int read(uint32_t offset, uint32_t* value) {
    top_->s_axil_araddr = offset;
    top_->s_axil_arvalid = 1;
    top_->s_axil_rready = 1;
    const bool answered = until([&] {
      if (sampled_.arready) top_->s_axil_arvalid = 0;
      return sampled_.rvalid;
    });
    top_->s_axil_arvalid = top_->s_axil_rready = 0;
    *value = sampled_.rdata;
    return answer(answered, sampled_.rresp, "read", offset);
  }

  int write(uint32_t offset, uint32_t value) {
    top_->s_axil_awaddr = offset;
    top_->s_axil_wdata = value;
    top_->s_axil_wstrb = 0xF;
    top_->s_axil_awvalid = top_->s_axil_wvalid = top_->s_axil_bready = 1;
    const bool answered = until([&] {
      if (sampled_.awready) top_->s_axil_awvalid = 0;
      if (sampled_.wready) top_->s_axil_wvalid = 0;
      return sampled_.bvalid;
    });
    top_->s_axil_awvalid = top_->s_axil_wvalid = top_->s_axil_bready = 0;
    return answer(answered, sampled_.bresp, "write", offset);
  }

  // Clocks the card until register `offset` & mask == value, `max_cycles` are over or stop() was
  // called. The register is looked at ever more rarely, at most an eighth of the time later than
  // it changed.
  int run(uint64_t max_cycles, uint32_t offset, uint32_t mask, uint32_t value) {
    constexpr uint64_t kFirstLook = 64, kLongestWait = 4096;
    const uint64_t start = cycles_, end = start + max_cycles;
    uint64_t look_at = start + kFirstLook;
    while (cycles_ < end) {
      for (const uint64_t pause = std::min(end, look_at); cycles_ < pause; tick()) {
        if (stop_.load(std::memory_order_relaxed)) {
          stop_.store(false, std::memory_order_relaxed);
          return kInterrupted;
        }
        if (cycles_ >= strike_.at) strike();
      }
      if (failed()) return kFailed;
      if (cycles_ >= look_at) {
        uint32_t seen = 0;
        if (read(offset, &seen) != kReached) return kFailed;
        if ((seen & mask) == value) return kReached;
        look_at = cycles_ + std::min(kLongestWait, kFirstLook + (cycles_ - start) / 8);
      }
    }
    return kBudgetSpent;
  }

  // Clocks the card for `count` cycles.
  int step(uint64_t count) {
    for (uint64_t i = 0; i < count; ++i) tick();
    return failed() ? kFailed : kReached;
  }

  // Notes every burst from now on.
  void watch() { watching_ = true; }
  const std::vector<Seen>& seen() const { return seen_; }

  void add_fault(const Fault& fault) { faults_.push_back(fault); }
  void clear_faults() {
    faults_.clear();
    hung_ = false;
    strike_ = {};
  }
  uint64_t struck() const { return struck_; }
  const std::vector<Store>& stores() const { return stores_; }
  void schedule(const Strike& strike) { strike_ = strike; }

 private:
  // The register port's outputs at the last rising edge.
  struct RegisterPort {
    bool awready, wready, bvalid, arready, rvalid;
    uint8_t bresp, rresp;
    uint32_t rdata;
  };

  bool failed() const { return !error_.empty(); }

  void fail(const char* what, uint64_t address) {
    char text[128];
    std::snprintf(text, sizeof text, "AXI4 %s at 0x%llx", what,
                  static_cast<unsigned long long>(address));
    if (!failed()) error_ = text;
  }

  template <typename Condition>
  bool until(Condition done) {
    for (uint64_t i = 0; i < kRegisterTimeout; ++i) {
      tick();
      if (done()) return true;
    }
    return false;
  }

  int answer(bool answered, uint8_t response, const char* what, uint32_t offset) {
    if (answered && response == kOkay) return failed() ? kFailed : kReached;
    char text[128];
    std::snprintf(text, sizeof text, "register %s at offset 0x%x %s", what, offset,
                  answered ? "answered with an error" : "was never answered");
    if (!failed()) error_ = text;
    return kFailed;
  }

  uint64_t random() {  // xorshift64
    lfsr_ ^= lfsr_ << 13;
    lfsr_ ^= lfsr_ >> 7;
    return lfsr_ ^= lfsr_ << 17;
  }
  bool pause() { return random_ && (random() & 3) == 0; }
  uint64_t ready_at() {
    return cycles_ + (random_ ? random() % (2 * latency_ + 1) : latency_);
  }

  bool in_memory(uint64_t address) const {
    return address >= base_ && address - base_ <= size_ - kBeatBytes;
  }

  // The arrays mem_q that the model shows.
  void find_stores() {
    for (const auto& [_, scope] : *context_->scopeNameMap()) {
      const VerilatedVar* const memory = scope->varFind("mem_q");
      if (!memory) continue;
      const unsigned row_bytes = memory->entSize();
      stores_.push_back({scope->name(), static_cast<uint8_t*>(memory->datap()),
                         static_cast<unsigned>(memory->totalSize() / row_bytes), row_bytes,
                         memory->entBits()});
    }
  }

  // A store that is empty is struck in the first cycle that it is not.
  void strike() {
    if (!strike_.store) {
      reset();
      ++struck_;
      strike_ = {};
      return;
    }
    const Store& store = *strike_.store;
    for (unsigned i = 0; i < store.rows; ++i) {
      uint8_t* const row = store.data + size_t{(strike_.row + i) % store.rows} * store.row_bytes;
      if (std::any_of(row, row + store.row_bytes, [](uint8_t byte) { return byte != 0; })) {
        row[strike_.bit / 8] ^= 1u << strike_.bit % 8;
        ++struck_;
        strike_ = {};
        return;
      }
    }
  }

  // The fault of this kind that hits the beat at `address`, if any; uses it up.
  const Fault* hit(FaultKind kind, uint64_t address) {
    for (Fault& fault : faults_) {
      if (fault.kind == kind && fault.count != 0 && address + kBeatBytes > fault.low &&
          address < fault.high) {
        if (fault.skip > 0) {
          --fault.skip;
          continue;
        }
        if (fault.count > 0) --fault.count;
        ++struck_;
        return &fault;
      }
    }
    return nullptr;
  }

  void check_burst(uint64_t address, unsigned length, unsigned size, unsigned type,
                   unsigned channel) {
    if (watching_) seen_.push_back({cycles_, address, length, channel});
    if ((1u << size) != kBeatBytes || type != 1) fail("burst is not full-width INCR", address);
    if (address % kBeatBytes) fail("burst is not aligned", address);
    if (address % kBoundary + (length + 1) * kBeatBytes > kBoundary)
      fail("burst crosses 4 KiB", address);
    if (!faults_.empty() && hit(kHang, address)) hung_ = true;
  }

  // Sets the memory's outputs to master `index` for the coming cycle.
  void drive(unsigned index) {
    Vtop& top = *top_;
    Port& port = ports_[index];
    if (hung_) {
      put<1>(top.m_axi_arready, index, 0);
      put<1>(top.m_axi_awready, index, 0);
      put<1>(top.m_axi_wready, index, 0);
      put<1>(top.m_axi_rvalid, index, port.read_valid);
      put<1>(top.m_axi_bvalid, index, port.response_valid);
      return;
    }
    put<1>(top.m_axi_arready, index, !port.reads.full() && !pause());
    put<1>(top.m_axi_awready, index, !port.writes.full() && !port.responses.full() && !pause());
    put<1>(top.m_axi_wready, index, !port.writes.empty() && !port.responses.full() && !pause());
    if (!port.read_valid && !port.reads.empty() && port.reads.front().ready_at <= cycles_ &&
        !pause()) {
      const Burst& burst = port.reads.front();
      const bool inside = in_memory(burst.address);
      uint8_t response = inside ? kOkay : kDecerr;
      const Fault* flip = nullptr;
      if (!faults_.empty()) {
        if (hit(kReadError, burst.address)) response = kSlverr;
        if (hit(kReadDecodeError, burst.address)) response = kDecerr;
        flip = hit(kReadFlip, burst.address);
      }
      put<2>(top.m_axi_rresp, index, response);
      uint8_t* const data = reinterpret_cast<uint8_t*>(&top.m_axi_rdata) + index * kBeatBytes;
      if (inside) {
        std::memcpy(data, memory_ + (burst.address - base_), kBeatBytes);
      } else {
        std::memset(data, 0, kBeatBytes);
      }
      if (flip) data[flip->bit / 8 % kBeatBytes] ^= 1u << flip->bit % 8;
      put<1>(top.m_axi_rid, index, burst.id);
      put<1>(top.m_axi_rlast, index, burst.beats == 1);
      port.read_valid = true;
    }
    put<1>(top.m_axi_rvalid, index, port.read_valid);
    if (!port.response_valid && !port.responses.empty() &&
        port.responses.front().ready_at <= cycles_ && !pause()) {
      put<1>(top.m_axi_bid, index, port.responses.front().id);
      put<2>(top.m_axi_bresp, index, port.responses.front().response);
      port.response_valid = true;
    }
    put<1>(top.m_axi_bvalid, index, port.response_valid);
  }

  void store(Burst& burst, unsigned index) {
    const Vtop& top = *top_;
    uint8_t beat[kBeatBytes];
    std::memcpy(beat, reinterpret_cast<const uint8_t*>(&top.m_axi_wdata) + index * kBeatBytes,
                kBeatBytes);
    if (!faults_.empty()) {
      if (hit(kWriteError, burst.address)) burst.response = kSlverr;
      if (hit(kWriteDecodeError, burst.address)) {
        burst.response = kDecerr;
        return;
      }
      if (const Fault* fault = hit(kFlip, burst.address)) {
        beat[fault->bit / 8 % kBeatBytes] ^= 1u << fault->bit % 8;
      }
    }
    if (!in_memory(burst.address)) {
      burst.response = kDecerr;
      return;
    }
    uint8_t* target = memory_ + (burst.address - base_);
    const uint64_t strobe = get<kBeatBytes>(top.m_axi_wstrb, index);
    constexpr uint64_t kAll = ~uint64_t{0} >> (64 - kBeatBytes);
    if (strobe == kAll) {
      std::memcpy(target, beat, kBeatBytes);
    } else {
      for (unsigned i = 0; i < kBeatBytes; ++i) {
        if (strobe >> i & 1) target[i] = beat[i];
      }
    }
  }

  // Takes the register port's handshakes of the rising edge that follows.
  void sample_registers() {
    const Vtop& top = *top_;
    sampled_ = {bool(top.s_axil_awready && top.s_axil_awvalid),
                bool(top.s_axil_wready && top.s_axil_wvalid),
                bool(top.s_axil_bvalid && top.s_axil_bready),
                bool(top.s_axil_arready && top.s_axil_arvalid),
                bool(top.s_axil_rvalid && top.s_axil_rready),
                top.s_axil_bresp,
                top.s_axil_rresp,
                top.s_axil_rdata};
  }

  // Takes the handshakes of master `index` of the rising edge that follows.
  void sample(unsigned index) {
    const Vtop& top = *top_;
    Port& port = ports_[index];
    if (get<1>(top.m_axi_rvalid & top.m_axi_rready, index)) {
      port.read_valid = false;
      Burst& burst = port.reads.front();
      burst.address += kBeatBytes;
      if (--burst.beats == 0) port.reads.pop();
    }
    if (get<1>(top.m_axi_bvalid & top.m_axi_bready, index)) {
      port.response_valid = false;
      port.responses.pop();
    }
    if (get<1>(top.m_axi_wvalid & top.m_axi_wready, index)) {
      Burst& burst = port.writes.front();
      store(burst, index);
      burst.address += kBeatBytes;
      if (get<1>(top.m_axi_wlast, index) != (burst.beats == 1))
        fail("wlast is misplaced", burst.address);
      if (--burst.beats == 0) {
        burst.ready_at = ready_at();
        port.responses.push(burst);
        port.writes.pop();
      }
    }
    if (get<1>(top.m_axi_arvalid & top.m_axi_arready, index)) {
      const uint64_t address = get<64>(top.m_axi_araddr, index);
      const unsigned length = get<8>(top.m_axi_arlen, index);
      check_burst(address, length, get<3>(top.m_axi_arsize, index),
                  get<2>(top.m_axi_arburst, index), 2 * index);
      port.reads.push({address, ready_at(), length + 1u, kOkay,
                       static_cast<uint32_t>(get<1>(top.m_axi_arid, index))});
    }
    if (get<1>(top.m_axi_awvalid & top.m_axi_awready, index)) {
      const uint64_t address = get<64>(top.m_axi_awaddr, index);
      const unsigned length = get<8>(top.m_axi_awlen, index);
      check_burst(address, length, get<3>(top.m_axi_awsize, index),
                  get<2>(top.m_axi_awburst, index), 2 * index + 1);
      port.writes.push({address, 0, length + 1u, kOkay,
                        static_cast<uint32_t>(get<1>(top.m_axi_awid, index))});
    }
  }

  void tick() {
    for (unsigned i = 0; i < kMasters; ++i) drive(i);
    top_->clk = 0;
    evaluate();
    sample_registers();
    if (top_->rst_n) {
      for (unsigned i = 0; i < kMasters; ++i) sample(i);
    }
    top_->clk = 1;
    evaluate();
    ++cycles_;
  }

  void evaluate() {
    top_->eval();
#if VM_TRACE_FST
    if (trace_) trace_->dump(2 * cycles_ + top_->clk);
#endif
  }

  const uint64_t base_, size_;
  const unsigned latency_;
  const bool random_;
  uint64_t lfsr_;
  uint8_t* memory_ = nullptr;
  uint64_t cycles_ = 0;
  std::atomic<bool> stop_{false};
  std::string error_;
  bool watching_ = false;
  std::vector<Seen> seen_;
  std::vector<Fault> faults_;
  std::vector<Store> stores_;
  Strike strike_;
  uint64_t struck_ = 0;
  bool hung_ = false;
  RegisterPort sampled_{};
  std::array<Port, kMasters> ports_{};
  std::unique_ptr<VerilatedContext> context_;
  std::unique_ptr<Vtop> top_;
#if VM_TRACE_FST
  std::unique_ptr<VerilatedFstC> trace_;
#endif
};

}  // namespace

extern "C" {

Card* card_create(uint64_t base, uint64_t size, unsigned latency, int random, uint64_t seed,
                  const char* trace) {
  std::unique_ptr<Card> card{new Card{base, size, latency, random != 0, seed, trace}};
  return card->valid() ? card.release() : nullptr;
}
void card_destroy(Card* card) { delete card; }
uint8_t* card_memory(Card* card) { return card->memory(); }
uint64_t card_cycles(Card* card) { return card->cycles(); }
int card_interrupt(Card* card) { return card->interrupt(); }
const char* card_error(Card* card) { return card->error(); }
void card_reset(Card* card) { card->reset(); }
int card_read(Card* card, uint32_t offset, uint32_t* value) { return card->read(offset, value); }
int card_write(Card* card, uint32_t offset, uint32_t value) { return card->write(offset, value); }
int card_run(Card* card, uint64_t max_cycles, uint32_t offset, uint32_t mask, uint32_t value) {
  return card->run(max_cycles, offset, mask, value);
}
int card_step(Card* card, uint64_t cycles) { return card->step(cycles); }
void card_stop(Card* card) { card->stop(); }
void card_watch(Card* card) { card->watch(); }
const uint64_t* card_watched(Card* card, uint64_t* bursts) {
  static_assert(sizeof(Seen) == 4 * sizeof(uint64_t));
  *bursts = card->seen().size();
  return reinterpret_cast<const uint64_t*>(card->seen().data());
}
void card_add_fault(Card* card, int kind, uint64_t low, uint64_t high, unsigned bit, int64_t count,
                    uint64_t skip) {
  card->add_fault({static_cast<FaultKind>(kind), low, high, bit, count, skip});
}
void card_clear_faults(Card* card) { card->clear_faults(); }
uint64_t card_struck(Card* card) { return card->struck(); }
void card_strike_reset(Card* card, uint64_t cycle) { card->schedule({cycle}); }
void card_strike_store(Card* card, uint64_t cycle, unsigned store, unsigned row, unsigned bit) {
  card->schedule({cycle, &card->stores()[store], row, bit});
}
unsigned card_stores(Card* card) { return card->stores().size(); }
const char* card_store_name(Card* card, unsigned store) {
  return card->stores()[store].name.c_str();
}
uint8_t* card_store(Card* card, unsigned store, uint32_t* rows, uint32_t* row_bytes,
                    uint32_t* bits) {
  const Store& found = card->stores()[store];
  *rows = found.rows, *row_bytes = found.row_bytes, *bits = found.bits;
  return found.data;
}

}  // extern "C"
