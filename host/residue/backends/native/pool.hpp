// Threads that take pieces of one operation at a time.

#pragma once

#include <unistd.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "lanes.hpp"

namespace residue {

// Callers and `threads - 1` workers, which start with the first operation that is worth it. Each caller
// works at its own operation; a worker takes pieces of any. One that has nothing to do looks for work
// for some 50 us before it sleeps: operations of one batch follow each other. After a fork the child has
// workers of its own.
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
    Job job{pieces, &work, {0}, {0}};
    const bool shared = threads_ > 1 && pieces > 1 && post(s, &job);
    job.take();
    if (!shared) return;
    {
      const std::lock_guard<std::mutex> lock(s->mutex);
      std::erase(s->jobs, &job);  // nobody joins any more
    }
    for (unsigned spin = 0; job.active.load() != 0; ++spin) pause(spin);
  }

  // Ends the workers. Later operations are done by their callers alone.
  void close() {
    State* s = mine();
    std::vector<std::thread> workers;
    {
      const std::lock_guard<std::mutex> lock(s->mutex);
      s->closed = true;
      workers.swap(s->workers);
    }
    s->posted.fetch_add(1);
    s->posted.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

 private:
  static constexpr unsigned kSpins = 1000;  // each some 40 cycles

  struct Job {
    std::size_t pieces;
    const std::function<void(std::size_t)>* work;
    std::atomic<std::size_t> next;
    std::atomic<unsigned> active;  // workers at it

    void take() {
      for (std::size_t piece; (piece = next.fetch_add(1)) < pieces;) (*work)(piece);
    }
  };

  struct State {
    const pid_t process = getpid();
    std::mutex mutex;  // of what follows, but for `posted`
    std::vector<Job*> jobs;
    std::vector<std::thread> workers;
    bool closed = false;
    std::atomic<unsigned> posted{0};  // how often there was something new
  };

  static void pause(unsigned spin) {
    if (spin % 64 == 63) std::this_thread::yield();
#if defined(__SSE2__)
    _mm_pause();
#endif
  }

  static void serve(State* s) {
    for (;;) {
      const unsigned seen = s->posted.load();
      Job* job = nullptr;
      {
        const std::lock_guard<std::mutex> lock(s->mutex);
        if (s->closed) return;
        for (Job* each : s->jobs) {
          if (each->next.load() < each->pieces) job = each;
        }
        if (job != nullptr) job->active.fetch_add(1);
      }
      if (job != nullptr) {
        job->take();
        job->active.fetch_sub(1);
        continue;
      }
      for (unsigned spin = 0; spin < kSpins && s->posted.load() == seen; ++spin) pause(spin);
      s->posted.wait(seen);
    }
  }

  // Whether workers may join the job. Fewer do, where the system gives no more threads.
  bool post(State* s, Job* job) {
    {
      const std::lock_guard<std::mutex> lock(s->mutex);
      if (s->closed) return false;
      try {
        while (s->workers.size() + 1 < threads_) s->workers.emplace_back(serve, s);
      } catch (const std::system_error&) {
      }
      s->jobs.push_back(job);
    }
    s->posted.fetch_add(1);
    s->posted.notify_all();
    return true;
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
