// Gives the memory that libtorch's allocator holds for later back to the device, so that another process can have it.
// The allocator is a C++ object behind a virtual method: there is no C function for it.

#include <c10/core/CachingDeviceAllocator.h>

extern "C" int ds_empty_device_cache() noexcept {
  try {
    auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA));
    if (allocator != nullptr && allocator->initialized()) allocator->emptyCache();
    return 0;
  } catch (...) {
    return 1;
  }
}
