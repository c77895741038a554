// The Verilated residue_card, the memory of its board and its register port, as a C ABI.
//
// One clock is two evaluations: inputs change and settle with the clock low, handshakes are
// sampled, then the rising edge. The memory is one region of lazily committed pages; it answers as
// an AXI4 slave with a chosen latency and, in random mode, pauses on every channel. Reads and
// writes are answered in order. What breaks AXI4's rules (or this model's: full-width INCR bursts)
// stops the model with a message.
//
// Not thread-safe, except card_stop.

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "Vtop.h"
#include "verilated.h"
#if VM_TRACE_FST
#include "verilated_fst_c.h"
#endif

namespace {

constexpr uint64_t kBoundary = 4096;  // bursts must not cross it
constexpr unsigned kBurstsOutstanding = 32;
constexpr uint64_t kRegisterTimeout = 10'000;  // cycles
constexpr uint8_t kOkay = 0, kSlverr = 2, kDecerr = 3;

enum Status : int { kBudgetSpent = 0, kReached = 1, kInterrupted = 2, kFailed = -1 };

enum FaultKind : int { kReadError = 0, kWriteError = 1, kHang = 2, kFlip = 3 };

struct Fault {
  FaultKind kind;
  uint64_t low, high;  // [low, high)
  unsigned bit;        // of the beat, for kFlip
  int64_t count;       // beats it still hits; negative: for ever
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

struct Burst {
  uint64_t address, ready_at;
  unsigned beats;
  uint8_t response;
  uint32_t id;
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
    top_.reset(new Vtop{context_.get(), "card"});
#if VM_TRACE_FST
    if (trace) {
      trace_.reset(new VerilatedFstC);
      top_->trace(trace_.get(), 99);
      trace_->open(trace);
    }
#endif
    (void)trace;
    reset();
  }
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  ~Card() {
#if VM_TRACE_FST
    if (trace_) trace_->close();
#endif
    if (top_) top_->final();
    if (memory_ != MAP_FAILED) munmap(memory_, size_);
  }

  bool valid() const { return memory_ != MAP_FAILED; }
  uint8_t* memory() { return memory_; }
  uint64_t cycles() const { return cycles_; }
  bool interrupt() const { return top_->interrupt_o; }
  const char* error() const { return error_.c_str(); }
  void stop() { stop_.store(true, std::memory_order_relaxed); }

  void reset() {
    reads_.clear();
    writes_.clear();
    responses_.clear();
    read_valid_ = write_response_valid_ = false;
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

  void add_fault(const Fault& fault) { faults_.push_back(fault); }
  void clear_faults() {
    faults_.clear();
    hung_ = false;
  }

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

  // The fault of this kind that hits the beat at `address`, if any; uses it up.
  const Fault* hit(FaultKind kind, uint64_t address) {
    for (Fault& fault : faults_) {
      if (fault.kind == kind && fault.count != 0 && address + kBeatBytes > fault.low &&
          address < fault.high) {
        if (fault.count > 0) --fault.count;
        return &fault;
      }
    }
    return nullptr;
  }

  void check_burst(uint64_t address, unsigned length, unsigned size, unsigned type) {
    if ((1u << size) != kBeatBytes || type != 1) fail("burst is not full-width INCR", address);
    if (address % kBeatBytes) fail("burst is not aligned", address);
    if (address % kBoundary + (length + 1) * kBeatBytes > kBoundary)
      fail("burst crosses 4 KiB", address);
    if (!faults_.empty() && hit(kHang, address)) hung_ = true;
  }

  // Sets the memory's outputs for the coming cycle.
  void drive() {
    Vtop& top = *top_;
    if (hung_) {
      top.m_axi_arready = top.m_axi_awready = top.m_axi_wready = 0;
      top.m_axi_rvalid = read_valid_;
      top.m_axi_bvalid = write_response_valid_;
      return;
    }
    top.m_axi_arready = !reads_.full() && !pause();
    top.m_axi_awready = !writes_.full() && !responses_.full() && !pause();
    top.m_axi_wready = !writes_.empty() && !responses_.full() && !pause();
    if (!read_valid_ && !reads_.empty() && reads_.front().ready_at <= cycles_ && !pause()) {
      const Burst& burst = reads_.front();
      const bool inside = in_memory(burst.address);
      top.m_axi_rresp = inside ? kOkay : kDecerr;
      if (!faults_.empty() && hit(kReadError, burst.address)) top.m_axi_rresp = kSlverr;
      if (inside) {
        std::memcpy(&top.m_axi_rdata, memory_ + (burst.address - base_), kBeatBytes);
      } else {
        std::memset(&top.m_axi_rdata, 0, kBeatBytes);
      }
      top.m_axi_rid = burst.id;
      top.m_axi_rlast = burst.beats == 1;
      read_valid_ = true;
    }
    top.m_axi_rvalid = read_valid_;
    if (!write_response_valid_ && !responses_.empty() &&
        responses_.front().ready_at <= cycles_ && !pause()) {
      top.m_axi_bid = responses_.front().id;
      top.m_axi_bresp = responses_.front().response;
      write_response_valid_ = true;
    }
    top.m_axi_bvalid = write_response_valid_;
  }

  void store(Burst& burst) {
    const Vtop& top = *top_;
    uint8_t beat[kBeatBytes];
    std::memcpy(beat, &top.m_axi_wdata, kBeatBytes);
    if (!faults_.empty()) {
      if (hit(kWriteError, burst.address)) burst.response = kSlverr;
      if (const Fault* fault = hit(kFlip, burst.address)) {
        beat[fault->bit / 8 % kBeatBytes] ^= 1u << fault->bit % 8;
      }
    }
    if (!in_memory(burst.address)) {
      burst.response = kDecerr;
      return;
    }
    uint8_t* target = memory_ + (burst.address - base_);
    const uint64_t strobe = top.m_axi_wstrb, all = ~uint64_t{0} >> (64 - kBeatBytes);
    if (strobe == all) {
      std::memcpy(target, beat, kBeatBytes);
    } else {
      for (unsigned i = 0; i < kBeatBytes; ++i) {
        if (strobe >> i & 1) target[i] = beat[i];
      }
    }
  }

  // Takes the handshakes of the rising edge that follows.
  void sample() {
    Vtop& top = *top_;
    sampled_ = {bool(top.s_axil_awready && top.s_axil_awvalid),
                bool(top.s_axil_wready && top.s_axil_wvalid),
                bool(top.s_axil_bvalid && top.s_axil_bready),
                bool(top.s_axil_arready && top.s_axil_arvalid),
                bool(top.s_axil_rvalid && top.s_axil_rready),
                top.s_axil_bresp,
                top.s_axil_rresp,
                top.s_axil_rdata};
    if (top.m_axi_rvalid && top.m_axi_rready) {
      read_valid_ = false;
      Burst& burst = reads_.front();
      burst.address += kBeatBytes;
      if (--burst.beats == 0) reads_.pop();
    }
    if (top.m_axi_bvalid && top.m_axi_bready) {
      write_response_valid_ = false;
      responses_.pop();
    }
    if (top.m_axi_wvalid && top.m_axi_wready) {
      Burst& burst = writes_.front();
      store(burst);
      burst.address += kBeatBytes;
      if (bool(top.m_axi_wlast) != (burst.beats == 1)) fail("wlast is misplaced", burst.address);
      if (--burst.beats == 0) {
        burst.ready_at = ready_at();
        responses_.push(burst);
        writes_.pop();
      }
    }
    if (top.m_axi_arvalid && top.m_axi_arready) {
      check_burst(top.m_axi_araddr, top.m_axi_arlen, top.m_axi_arsize, top.m_axi_arburst);
      reads_.push({top.m_axi_araddr, ready_at(), top.m_axi_arlen + 1u, kOkay, top.m_axi_arid});
    }
    if (top.m_axi_awvalid && top.m_axi_awready) {
      check_burst(top.m_axi_awaddr, top.m_axi_awlen, top.m_axi_awsize, top.m_axi_awburst);
      writes_.push({top.m_axi_awaddr, 0, top.m_axi_awlen + 1u, kOkay, top.m_axi_awid});
    }
  }

  void tick() {
    drive();
    top_->clk = 0;
    evaluate();
    if (top_->rst_n) sample();
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

  static constexpr unsigned kBeatBytes = sizeof(Vtop::m_axi_rdata);

  const uint64_t base_, size_;
  const unsigned latency_;
  const bool random_;
  uint64_t lfsr_;
  uint8_t* memory_ = nullptr;
  uint64_t cycles_ = 0;
  std::atomic<bool> stop_{false};
  std::string error_;
  std::vector<Fault> faults_;
  bool hung_ = false, read_valid_ = false, write_response_valid_ = false;
  RegisterPort sampled_{};
  Fifo<Burst> reads_, writes_, responses_;
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
void card_add_fault(Card* card, int kind, uint64_t low, uint64_t high, unsigned bit,
                    int64_t count) {
  card->add_fault({static_cast<FaultKind>(kind), low, high, bit, count});
}
void card_clear_faults(Card* card) { card->clear_faults(); }

}  // extern "C"
