// The CUDA runtime's entry points that nvcc's host code and CUB call: registers the PTX of fat binaries, runs kernels when
// they are launched, and keeps device memory in this process's. One device, of compute capability 7.5.
//
// Environment: CUDA_EMULATION_ORDER = forwards, backwards, shuffled or mixed (default): the order of warps.
//              PTX_EMULATION_DEVICE = old_driver, none, no_image or old_ptx: a machine on which nothing runs.
#include <cuda_runtime_api.h>

#include <list>
#include <mutex>

#include "../cuda_emulation/error_names.h"
#include "schedule.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace ptx {
namespace {

/// The text of a module, and what of it was read so far.
struct Program {
    std::string_view text;
    Module module;
    std::map<std::string, uint64_t> globals;
    std::list<std::vector<uint8_t>> memory;  // of the globals
    std::map<std::string, Code, std::less<>> codes;
    bool is_read = false;
};

/// A kernel as the host knows it.
struct Registered { Program* program; std::string name; };

std::mutex mutex;  // of all that follows
DeviceMemory memory;
std::list<Program> programs;
std::map<const void*, Registered> kernels;
std::mt19937 random_numbers(1);  // goes on from launch to launch: a rerun runs in another order

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string message;  // of the last failure
struct Configuration { dim3 grid, block; size_t shared; void* stream; };
thread_local std::vector<Configuration> configurations;

cudaError_t remembered(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

bool pretends(const char* what) {
    const char* device = std::getenv("PTX_EMULATION_DEVICE");
    return device != nullptr && device == std::string_view(what);
}
/// The error of every call on a machine that has no GPU or too old a driver.
cudaError_t device_error() {
    if (pretends("old_driver")) return remembered(cudaErrorInsufficientDriver);
    if (pretends("none")) return remembered(cudaErrorNoDevice);
    return cudaSuccess;
}
/// The error of what needs a kernel's code.
cudaError_t code_error() {
    if (const cudaError_t error = device_error(); error != cudaSuccess) return error;
    if (pretends("no_image")) return remembered(cudaErrorNoKernelImageForDevice);
    if (pretends("old_ptx")) return remembered(cudaErrorUnsupportedPtxVersion);
    return cudaSuccess;
}

// ---- Programs ----

template <class T> T read_at(const uint8_t* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

/// The PTX in a fat binary: a header of 16 bytes, then entries, each with a header. Kind 1 is PTX.
std::string_view ptx_of(const uint8_t* fat) {
    if (read_at<uint32_t>(fat) != 0xba55ed50u) return {};
    const uint8_t *entry = fat + read_at<uint16_t>(fat + 6), *end = entry + read_at<uint64_t>(fat + 8);
    while (entry < end) {
        const auto header = read_at<uint32_t>(entry + 4);
        const auto size = read_at<uint64_t>(entry + 8);
        if (read_at<uint16_t>(entry) == 1) return {reinterpret_cast<const char*>(entry + header), size};
        entry += header + size;
    }
    return {};
}

void read_program(Program& program) {
    if (program.is_read) return;
    program.module = Reader(program.text).read();
    for (const Variable& variable : program.module.globals) {
        auto& bytes = program.memory.emplace_back(variable.size + variable.align);
        auto* place = reinterpret_cast<uint8_t*>((reinterpret_cast<uint64_t>(bytes.data()) + variable.align - 1) / variable.align * variable.align);
        std::copy(variable.initial.begin(), variable.initial.end(), place);
        memory.add(place, variable.size, true);
        program.globals[variable.name] = reinterpret_cast<uint64_t>(place);
    }
    program.is_read = true;
}

const Code& code_of(Program& program, const std::string& name) {
    read_program(program);
    if (const auto found = program.codes.find(name); found != program.codes.end()) return found->second;
    const auto kernel = program.module.kernels.find(name);
    if (kernel == program.module.kernels.end()) throw TextError("no kernel " + name);
    return program.codes[name] = Decoder(program.module, kernel->second, program.text, program.globals).decode();
}

cudaError_t launch(Program& program, const std::string& name, dim3 grid, dim3 block, size_t shared, void** arguments) {
    if (const cudaError_t error = code_error(); error != cudaSuccess) return error;
    const std::lock_guard locked(mutex);
    try {
        const Code& code = code_of(program, name);
        Launch launch;
        launch.code = &code, launch.memory = &memory, launch.dynamic_shared = shared;
        launch.grid = {grid.x, grid.y, grid.z}, launch.threads = {block.x, block.y, block.z};
        if (grid.x < 1 || grid.y < 1 || grid.z < 1 || launch.num_threads() < 1 || launch.num_threads() > code.max_threads)
            return remembered(cudaErrorInvalidConfiguration);
        if (launch.shared_size() > kMaxShared) return remembered(cudaErrorInvalidValue);
        launch.params.resize(code.param_bytes);
        for (size_t k = 0; k < code.params.size(); ++k)
            std::memcpy(launch.params.data() + code.params[k].first, arguments[k], code.params[k].second);
        launch.random.seed(random_numbers());
        Runner(launch, order_of(std::getenv("CUDA_EMULATION_ORDER"))).run();
        return cudaSuccess;
    } catch (const Fault& wrong) {
        message = wrong.what();
        return remembered(cudaErrorLaunchFailure);
    } catch (const TextError& wrong) {
        message = wrong.what();
        return remembered(cudaErrorInvalidPtx);
    }
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, size_t shared, void** arguments) {
    const auto found = kernels.find(function);
    if (found == kernels.end()) return remembered(cudaErrorInvalidDeviceFunction);
    return launch(*found->second.program, found->second.name, grid, block, shared, arguments);
}

/// Marks or checks the bytes of a copy, where they are on the device.
cudaError_t touch(const void* pointer, size_t bytes, bool is_write, const char* what) {
    Region* region = memory.find(reinterpret_cast<uint64_t>(pointer), bytes);
    if (region == nullptr) {
        message = std::string(what) + ": " + std::to_string(bytes) + " bytes are outside of all arrays";
        return remembered(cudaErrorLaunchFailure);
    }
    if (region->known.empty()) return cudaSuccess;
    uint8_t* known = region->known.data() + (reinterpret_cast<uint64_t>(pointer) - region->begin);
    if (is_write) std::fill_n(known, bytes, kKnown);
    else if (std::count(known, known + bytes, kKnown) != static_cast<long>(bytes)) {
        message = std::string(what) + ": reads bytes that were never written";
        return remembered(cudaErrorLaunchFailure);
    }
    return cudaSuccess;
}

}  // namespace
}  // namespace ptx

using namespace ptx;

// ---- For the tests ----

/// Tells that kernels may touch this memory, and whether it has values.
EXPORTED void ptx_memory_add(const void* pointer, uint64_t bytes, int is_known) {
    const std::lock_guard locked(mutex);
    memory.add(pointer, bytes, is_known != 0);
}
EXPORTED void ptx_memory_remove(const void* pointer) {
    const std::lock_guard locked(mutex);
    memory.remove(pointer);
}
/// Runs a kernel of a text. Returns "", or the error's name and text, valid until the thread's next call.
EXPORTED const char* ptx_run(const char* text, const char* name, unsigned blocks, unsigned threads, size_t shared, void** arguments) {
    Program program;
    program.text = text;
    static thread_local std::string said;
    const cudaError_t error = launch(program, name, dim3{blocks, 1, 1}, dim3{threads, 1, 1}, shared, arguments);
    cudaGetLastError();
    said = error == cudaSuccess ? "" : std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
    return said.c_str();
}

// ---- What nvcc's host code calls ----

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
    const std::lock_guard locked(mutex);
    const uint8_t* fat = read_at<const uint8_t*>(static_cast<const uint8_t*>(wrapper) + 8);
    Program& program = programs.emplace_back();
    program.text = ptx_of(fat);
    return reinterpret_cast<void**>(&program);
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void** handle, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
    const std::lock_guard locked(mutex);
    kernels[host] = {reinterpret_cast<Program*>(handle), name};
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}  // the host touches none
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
    configurations.push_back({grid, block, shared, stream});
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
    const Configuration top = configurations.back();
    configurations.pop_back();
    *grid = top.grid, *block = top.block, *shared = top.shared;
    *static_cast<void**>(stream) = top.stream;
    return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
    *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
    return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t) {
    return launch(kernel, grid, block, shared, arguments);
}

// ---- The runtime's functions ----

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
    return launch(function, config->gridDim, config->blockDim, config->dynamicSmemBytes, arguments);
}
cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t) {
    return launch(function, grid, block, shared, arguments);
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
    if (const cudaError_t error = device_error(); error != cudaSuccess) return error;
    *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
    ptx_memory_add(*pointer, bytes, false);
    return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
    ptx_memory_remove(pointer);
    std::free(pointer);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
    if (const cudaError_t error = device_error(); error != cudaSuccess || bytes == 0) return error;
    const std::lock_guard locked(mutex);
    cudaError_t error = cudaSuccess;
    if (kind != cudaMemcpyHostToDevice) error = touch(from, bytes, false, "copy");
    if (kind != cudaMemcpyDeviceToHost && error == cudaSuccess) error = touch(to, bytes, true, "copy");
    if (error == cudaSuccess) std::memmove(to, from, bytes);
    return error;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) { return cudaMemcpyAsync(to, from, bytes, kind, nullptr); }
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
    if (const cudaError_t error = device_error(); error != cudaSuccess || bytes == 0) return error;
    const std::lock_guard locked(mutex);
    const cudaError_t error = touch(to, bytes, true, "memset");
    if (error == cudaSuccess) std::memset(to, value, bytes);
    return error;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return device_error(); }
cudaError_t cudaDeviceSynchronize() { return device_error(); }

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }
const char* cudaGetErrorName(cudaError_t error) { return name_of(error); }
/// For a kernel that failed, what it did wrong; for others CUDA's text is its name here.
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorLaunchFailure || error == cudaErrorInvalidPtx ? message.c_str() : cudaGetErrorName(error);
}

cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return device_error();
}
cudaError_t cudaSetDevice(int device) { return device == 0 ? device_error() : remembered(cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return device_error();
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = pretends("old_driver") ? 12040 : CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor: *value = 7; break;
        case cudaDevAttrComputeCapabilityMinor: *value = 5; break;
        case cudaDevAttrMultiProcessorCount: *value = 4; break;
        case cudaDevAttrWarpSize: *value = kLanes; break;
        case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = kMaxShared; break;
        case cudaDevAttrMaxGridDimX: *value = 0x7fffffff; break;
        default: return remembered(cudaErrorInvalidValue);
    }
    return device_error();
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
    if (const cudaError_t error = code_error(); error != cudaSuccess) return error;
    const auto found = kernels.find(function);
    if (found == kernels.end()) return remembered(cudaErrorInvalidDeviceFunction);
    const std::lock_guard locked(mutex);
    const Code& code = code_of(*found->second.program, found->second.name);
    *attributes = {};
    attributes->sharedSizeBytes = code.shared_bytes, attributes->localSizeBytes = code.local_bytes;
    attributes->maxThreadsPerBlock = static_cast<int>(code.max_threads), attributes->numRegs = 64;
    attributes->ptxVersion = attributes->binaryVersion = 75;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
    *blocks = 2;
    return code_error();
}

}  // extern "C"
