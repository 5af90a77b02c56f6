// The names of errors that either emulation gives. Include its cuda_runtime.h or the toolkit's before.
#pragma once

inline const char* name_of(cudaError_t error) {
    switch (error) {
#define NAME(error) \
    case error:     \
        return #error
        NAME(cudaSuccess);
        NAME(cudaErrorInvalidValue);
        NAME(cudaErrorMemoryAllocation);
        NAME(cudaErrorInvalidConfiguration);
        NAME(cudaErrorInsufficientDriver);
        NAME(cudaErrorInvalidDeviceFunction);
        NAME(cudaErrorNoDevice);
        NAME(cudaErrorInvalidDevice);
        NAME(cudaErrorNoKernelImageForDevice);
        NAME(cudaErrorInvalidPtx);
        NAME(cudaErrorUnsupportedPtxVersion);
        NAME(cudaErrorIllegalAddress);
        NAME(cudaErrorLaunchOutOfResources);
        NAME(cudaErrorLaunchFailure);
#undef NAME
        default:
            return "unrecognized error code";
    }
}
