// Error messages, and DGR_SYNC.
#include <cstdlib>
#include <string>

#include "cuda_platform.h"

namespace dgr::cuda {
namespace {

std::string version_text(int version) {
    return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// What the user can do, or empty.
std::string advice(cudaError_t error) {
    int driver = 0, runtime = 0;
    switch (error) {
        case cudaErrorInsufficientDriver:
            cudaDriverGetVersion(&driver);
            cudaRuntimeGetVersion(&runtime);
            return ": the driver is for CUDA " + version_text(driver) + ", this build needs " + version_text(runtime) +
                   "; update the driver, or install again with an older toolkit";
        case cudaErrorNoKernelImageForDevice:
            return ": this build has no code for this GPU; install again where the GPU is, or with DGR_CUDA_ARCHS set";
        case cudaErrorNoDevice:
            return ": there is no GPU; use the CPU";
        case cudaErrorMemoryAllocation:
            return ": use a lower resolution or fewer Gaussians";
        default:
            return is_synchronous() ? "" : "; DGR_SYNC=1 names the kernel";
    }
}

}  // namespace

const bool is_built = true;

void fail(cudaError_t error, const char* operation) {
    cudaGetLastError();  // clears an error that is not sticky
    throw Error(std::string(operation) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) + ")" +
                advice(error));
}

bool is_synchronous() {
    static const bool wanted = [] {
        const char* value = std::getenv("DGR_SYNC");
        return value != nullptr && std::string(value) == "1";
    }();
    return wanted;
}

}  // namespace dgr::cuda
