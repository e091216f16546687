// What the kernels share: OpenBLAS' product, and work on all cores.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

using Gemm = void (*)(int order, int trans_a, int trans_b, int m, int n, int k,
                      float alpha, const float* a, int lda, const float* b, int ldb,
                      float beta, float* c, int ldc);
using SetThreads = void (*)(int);

// Memory from the start of a cache line on: a vector that lies in two is read twice.
template <class T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t LINE{64};
  Aligned() = default;
  template <class U>
  Aligned(const Aligned<U>&) {}
  T* allocate(std::size_t n) {
    return static_cast<T*>(::operator new(n * sizeof(T), LINE));
  }
  void deallocate(T* p, std::size_t) { ::operator delete(p, LINE); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};

using Buffer = std::vector<float, Aligned<float>>;

inline Gemm gemm;
inline SetThreads set_threads;
inline long cores = 1;
inline int blas_threads = 1;  // outside our own threads

// c[m, n] = a[m, k] @ b[n, k].T + beta * c, as linear layers store b.
inline void matmul_nt(const float* a, long lda, const float* b, long ldb, float* c,
                      long ldc, long m, long n, long k, float alpha = 1,
                      float beta = 0) {
  gemm(101, 111, 112, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
}

// Threads that live as long as the process. A caller works too and waits for pieces,
// not for threads: in a fork, where they are gone, it does all of the work. A thread
// without work looks for more for a moment before it sleeps, as waking one takes longer
// than a small product.
class Pool {
 public:
  void run(long count, const std::function<void(long)>& piece) {
    auto job = std::make_shared<Job>(count, piece);
    {
      std::lock_guard<std::mutex> lock(mutex);
      for (long i = started; i < std::min(cores, count) - 1; i++, started++)
        std::thread(&Pool::work, this).detach();
      newest = job;
      jobs.fetch_add(1, std::memory_order_release);
    }
    if (sleeping.load()) change.notify_all();
    job->take();
    while (job->done.load(std::memory_order_acquire) < count) std::this_thread::yield();
  }

 private:
  struct Job {
    const long count;
    const std::function<void(long)>& piece;
    std::atomic<long> next{0}, done{0};
    Job(long count, const std::function<void(long)>& piece) : count(count), piece(piece) {}

    // A late thread finds no piece left, and does not touch `piece`.
    void take() {
      for (long i; (i = next++) < count; done.fetch_add(1, std::memory_order_release))
        piece(i);
    }
  };

  void work() {
    for (long seen = 0;;) {
      for (long i = 0; i < PATIENCE && jobs.load(std::memory_order_acquire) == seen; i++)
        std::this_thread::yield();
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex);
        sleeping++;
        change.wait(lock, [&] { return jobs != seen; });
        sleeping--;
        job = newest;
        seen = jobs;
      }
      job->take();
    }
  }

  static constexpr long PATIENCE = 300;  // about 0.1 ms

  std::mutex mutex;
  std::condition_variable change;
  std::shared_ptr<Job> newest;
  std::atomic<long> jobs{0}, sleeping{0};
  long started = 0;
};

// Calls piece(0) ... piece(count - 1), each once, on all cores.
inline void parallel(long count, const std::function<void(long)>& piece) {
  // Never freed: its threads may outlive what the end of the process destroys.
  static Pool& pool = *new Pool;
  if (set_threads) set_threads(1);
  pool.run(count, piece);
  if (set_threads) set_threads(blas_threads);
}
