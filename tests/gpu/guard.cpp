// A CUDA device guard without CUDA: it keeps the current device of each thread, as cudaSetDevice does, and does nothing
// else. Two GPUs. Pinned memory is ordinary memory whose addresses are remembered.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <map>
#include <mutex>

namespace {
std::mutex lock;
std::map<uintptr_t, size_t> pinned;

struct PinnedAllocator : c10::Allocator {
  static void release(void* place) {
    {
      std::lock_guard<std::mutex> held(lock);
      pinned.erase(reinterpret_cast<uintptr_t>(place));
    }
    c10::GetCPUAllocator()->raw_deallocate(place);
  }
  c10::DataPtr allocate(size_t size) override {
    void* place = c10::GetCPUAllocator()->raw_allocate(size ? size : 1);
    std::lock_guard<std::mutex> held(lock);
    pinned[reinterpret_cast<uintptr_t>(place)] = size;
    return {place, place, &release, c10::Device(c10::DeviceType::CPU)};
  }
  void copy_data(void* to, const void* from, std::size_t count) const override { default_copy_data(to, from, count); }
};

bool is_pinned(const void* place) {
  std::lock_guard<std::mutex> held(lock);
  auto after = pinned.upper_bound(reinterpret_cast<uintptr_t>(place));
  if (after == pinned.begin()) return false;
  --after;
  return reinterpret_cast<uintptr_t>(place) < after->first + std::max<size_t>(after->second, 1);
}

thread_local int current = 0;
}  // namespace

extern "C" void fake_set_device(int device) { current = device; }
extern "C" int fake_get_device() { return current; }

namespace at {
struct CUDAHooks : public CUDAHooksInterface {
  CUDAHooks(CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 2; }
  DeviceIndex deviceCount() const override { return 2; }
  DeviceIndex current_device() const override { return current; }
  DeviceIndex getCurrentDevice() const override { return current; }
  bool isPinnedPtr(const void* place) const override { return is_pinned(place); }
  Allocator* getPinnedMemoryAllocator() const override {
    static PinnedAllocator allocator;
    return &allocator;
  }
};
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, CUDAHooks)
}  // namespace at

namespace {
c10::Device here() { return c10::Device(c10::DeviceType::CUDA, current); }
struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device exchangeDevice(c10::Device device) const override {
    auto before = here();
    uncheckedSetDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return here(); }
  void setDevice(c10::Device device) const override { uncheckedSetDevice(device); }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) current = device.index();
  }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device.index() >= 0 ? device : here());
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 2; }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard)
}  // namespace
