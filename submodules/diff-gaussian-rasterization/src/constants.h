// The constants of the rasterizer and of the loss, each defined once.
#pragma once

#include <cstdint>

namespace dgr {

inline constexpr double kLog2e = 1.4426950408889634;

/// log2(x) for x > 0 in a constant expression, which std::log2 is not. The series of atanh, with |s| <= 1/5.
constexpr double constant_log2(double x) {
    int exponent = 0;
    for (; x < 0.75; x *= 2) --exponent;
    for (; x > 1.5; x /= 2) ++exponent;
    const double s = (x - 1) / (x + 1);
    double sum = 0, power = s;
    for (int k = 1; k < 50; k += 2, power *= s * s) sum += power / k;
    return exponent + 2 * kLog2e * sum;
}

struct Limits {
    static constexpr double near = 0.2;                 // world units; nearer Gaussians are culled
    static constexpr double blur = 0.3;                 // px^2, the low-pass filter of 3DGS
    static constexpr double border = 0.15;              // Jacobian clamp beyond each edge, as a fraction of the size
    static constexpr double alpha_min = 1.0 / 255.0;
    static constexpr double log2_alpha_min = constant_log2(alpha_min);
    static constexpr double alpha_max = 0.99;
    static constexpr double transmittance_min = 1e-4;
    static constexpr int tile = 16;                     // px
    static constexpr int sh_degree_max = 3;
    static constexpr int64_t pixels_max = int64_t(1) << 30;  // of an image
};

/// SSIM [Wang et al. 2004], for values in [0, 1].
struct Ssim {
    static constexpr int window = 11;     // px, odd
    static constexpr double sigma = 1.5;  // px
    static constexpr double c1 = 0.01 * 0.01, c2 = 0.03 * 0.03;
};

}  // namespace dgr
