// Threads that take pieces of one operation at a time.

#pragma once

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "lanes.hpp"

namespace residue {

// The calling thread and up to `threads - 1` workers, which start with the first operation that is
// worth it. A worker that has nothing to do looks for work for some 50 us before it sleeps: operations
// of one batch follow each other. An operation that finds the workers at another's does all of its
// pieces itself. After a fork the child has workers of its own.
class Pool {
 public:
  explicit Pool(std::size_t threads) : threads_(threads), state_(new State) {}
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    close();
    delete state_.load();
  }

  std::size_t threads() const { return threads_; }

  // Calls work(piece) for each of [0, pieces), by whichever thread is ready. `work` does not throw.
  void run(std::size_t pieces, const std::function<void(std::size_t)>& work) {
    State* s = mine();
    std::unique_lock<std::mutex> turn(s->turn, std::try_to_lock);
    if (threads_ < 2 || pieces < 2 || s->closed || !turn.owns_lock()) {
      for (std::size_t piece = 0; piece < pieces; ++piece) work(piece);
      return;
    }
    start(s);
    Job job{pieces, &work, {0}};
    {
      const std::lock_guard<std::mutex> lock(s->mutex);
      s->job = &job;
      s->posted.fetch_add(1);
    }
    s->posted.notify_all();
    job.take();
    {
      const std::lock_guard<std::mutex> lock(s->mutex);
      s->job = nullptr;  // nobody joins any more
    }
    for (unsigned spin = 0; s->active.load() != 0; ++spin) pause(spin);
  }

  // Ends the workers. Later operations are done by the calling thread.
  void close() {
    State* s = mine();
    const std::lock_guard<std::mutex> turn(s->turn);
    s->closed = true;
    s->posted.fetch_add(1);
    s->posted.notify_all();
    for (std::thread& worker : s->workers) worker.join();
    s->workers.clear();
  }

 private:
  static constexpr unsigned kSpins = 1000;  // each some 40 cycles

  struct Job {
    std::size_t pieces;
    const std::function<void(std::size_t)>* work;
    std::atomic<std::size_t> next;

    void take() {
      for (std::size_t piece; (piece = next.fetch_add(1)) < pieces;) (*work)(piece);
    }
  };

  struct State {
    const pid_t process = getpid();
    std::mutex turn;   // of operations
    std::mutex mutex;  // of `job`, and of joining it
    std::atomic<unsigned> posted{0};
    std::atomic<unsigned> active{0};  // workers at the job
    std::atomic<bool> closed{false};
    Job* job = nullptr;
    std::vector<std::thread> workers;
  };

  static void pause(unsigned spin) {
    if (spin % 64 == 63) std::this_thread::yield();
#if defined(__SSE2__)
    _mm_pause();
#endif
  }

  static void serve(State* s) {
    for (unsigned seen = 0;;) {
      for (unsigned spin = 0; spin < kSpins && s->posted.load() == seen; ++spin) pause(spin);
      s->posted.wait(seen);
      seen = s->posted.load();
      if (s->closed) return;
      Job* job;
      {
        const std::lock_guard<std::mutex> lock(s->mutex);
        job = s->job;
        if (job != nullptr) s->active.fetch_add(1);
      }
      if (job == nullptr) continue;
      job->take();
      s->active.fetch_sub(1);
    }
  }

  // Fewer workers do, where the system gives no more threads.
  void start(State* s) {
    try {
      while (s->workers.size() + 1 < threads_) s->workers.emplace_back(serve, s);
    } catch (const std::system_error&) {
    }
  }

  // In a forked child the parent's threads are not there, and its locks may be held for ever.
  State* mine() {
    State* s = state_;
    if (s->process == getpid()) return s;
    State* fresh = new State;
    if (state_.compare_exchange_strong(s, fresh)) return fresh;
    delete fresh;
    return s;
  }

  const std::size_t threads_;
  std::atomic<State*> state_;  // a parent's is left alone
};

}  // namespace residue
