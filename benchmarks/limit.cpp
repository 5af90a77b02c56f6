// The blending of the CPU engine beside a plain loop that does the arithmetic of the same number of pairs of splat and
// pixel: all lanes of use, no masks, no bounds, no end of a tile, and all data in the L1 cache.
#include <algorithm>
#include <limits>

#include "engine_case.h"

// The engine's functions for one tile are not in a header.
#include "cpu_blend.cpp"

namespace {

using B = Batch<float>;

constexpr int kSplats = 64;  // 64 bytes each

/// Splats of little opacity, so that the transmittance stays a normal number.
struct PlainTile {
    alignas(kVectorBytes) float transmittance[kTilePixels], sums[3][kTilePixels], v[3][kTilePixels],
        remainder[kTilePixels];
    Splat<float> splats[kSplats];
    SplatGradient<float> gradients[kSplats];
    B lane;

    PlainTile() {
        for (int i = 0; i < kLanes<float>; ++i) lane.set(i, static_cast<float>(i));
        for (int i = 0; i < kTilePixels; ++i) {
            transmittance[i] = 1, remainder[i] = 0.3f;
            for (int c = 0; c < 3; ++c) sums[c][i] = 0, v[c][i] = 0.1f * static_cast<float>(c + 1);
        }
        for (int k = 0; k < kSplats; ++k)
            splats[k] = {{7.5f, 0.1f * static_cast<float>(k)}, {0.02f, 0.01f, 0.03f}, -20, {0.2f, 0.5f, 0.7f}, 0, {9, 9},
                         1, 0};
    }
    /// Calls visit(index of the first pixel, d, alpha, transmittance) for all pixels, and updates the transmittance.
    template <class Visit> __attribute__((always_inline)) void for_each_group(const Splat<float>& s, const Visit& visit) {
        const Sym2<B> conic{B(s.conic.xx), B(s.conic.xy), B(s.conic.yy)};
        const B log2_opacity(s.log2_opacity);
        B d_x[kTile / kLanes<float>];
        for (int i = 0; i < kTile / kLanes<float>; ++i)
            d_x[i] = lane + B(static_cast<float>(i * kLanes<float>) - s.mean.x);
        for (int row = 0; row < kTile; ++row) {
            const B d_y(static_cast<float>(row) - s.mean.y);
            for (int column = 0; column < kTile; column += kLanes<float>) {
                const int at = row * kTile + column;
                const Vec2<B> d{d_x[column / kLanes<float>], d_y};
                const B alpha = exp2(log2_alpha(log2_opacity, exponent_conic(conic), d));
                const B before = B::load(transmittance + at);
                visit(at, d, alpha, before);
                transmittance_after(before, alpha).store(transmittance + at);
            }
        }
    }
    __attribute__((noinline)) void forward() {
        for (const Splat<float>& s : splats) {
            const B values[3] = {B(s.color.x), B(s.color.y), B(s.color.z)};
            for_each_group(s, [&](int at, Vec2<B>, B alpha, B before) __attribute__((always_inline)) {
                const B weight = blend_weight(before, alpha);
                for (int c = 0; c < 3; ++c) (B::load(sums[c] + at) + weight * values[c]).store(sums[c] + at);
            });
        }
    }
    __attribute__((noinline)) void backward() {
        for (int k = 0; k < kSplats; ++k) {
            const Splat<float>& s = splats[k];
            const Channels<B> channels{{B(s.color.x), B(s.color.y), B(s.color.z)}, B(0)};
            SplatGradient<B> of_splat = {};
            LineSums<B> columns[kTile / kLanes<float>] = {};
            for_each_group(s, [&](int at, Vec2<B> d, B alpha, B before) __attribute__((always_inline)) {
                const Channels<B> v_pixel{{B::load(v[0] + at), B::load(v[1] + at), B::load(v[2] + at)}, B(0)};
                B rest = B::load(remainder + at);
                const Mask<float> all{Mask<float>::Lanes{} == Mask<float>::Lanes{}};
                const PairGradient<B> pair =
                    blend_vjp<false>(channels, alpha, odds_of(alpha), before, all, v_pixel, rest);
                rest.store(remainder + at);
                add_channels<false>(pair.weight, v_pixel, of_splat);
                add_pixel(d.y, pair.u, columns[at % kTile / kLanes<float>]);
            });
            const B d_x = lane - B(s.mean.x);
            for (const LineSums<B>& column : columns) add_column(d_x, column, of_splat);
            gradients[k] = sum(of_splat);
        }
    }
};

/// The lanes that the engine computes in the groups of a view, and those that contribute.
struct Pairs { int64_t evaluated = 0, contributing = 0; };
Pairs count_pairs(const Frame<float>& frame) {
    Pairs pairs;
    for (int64_t index = 0; index < frame.view.num_tiles(); ++index) {
        TilePixels<float> tile(frame.view, index);
        walk_tile(
            frame, index, tile,
            [&](const Instance&, const Splat<float>&, const B*, const auto& for_each_group) {
                for_each_group([&](int, Vec2<B>, B, B, Mask<float> contributes) {
                    pairs.evaluated += kLanes<float>;
                    pairs.contributing += count(contributes);
                });
            },
            [](const Instance&) {});
    }
    return pairs;
}

}  // namespace

int main(int num_arguments, char** arguments) {
    if (num_arguments != 3) return std::fprintf(stderr, "usage: limit SCENE REPEATS\n"), 1;
    const Case scene(arguments[1]);
    Arrays a(scene);
    part_forward(a);
    part_loss(a);
    a.slots = Buffer<SplatGradient<float>>(a.frame.instances.size());
    const Pairs pairs = count_pairs(a.frame);
    const int64_t plain_pairs = int64_t(100) * kSplats * kTilePixels;
    const auto tile = std::make_unique<PlainTile>();
    const Images<const float> images{a.image.data(), a.transmittance.data(), nullptr};
    const Images<const float> v_images{a.v_image.data(), nullptr, nullptr};
    const auto all_tiles = [&](const auto& work) {
        for (int64_t i = 0; i < scene.view.num_tiles(); ++i) work(i);
    };
    double least[4];
    std::fill_n(least, 4, std::numeric_limits<double>::infinity());
    const auto measure = [&](int index, int64_t count, const auto& work) {
        const double start = cpu_seconds();
        work();
        least[index] = std::min(least[index], (cpu_seconds() - start) / static_cast<double>(count));
    };
    for (int repeat = 0; repeat < std::atoi(arguments[2]); ++repeat) {  // in turns, because the clock rate changes
        measure(0, plain_pairs, [&] { for (int i = 0; i < 100; ++i) tile->forward(); });
        measure(1, pairs.evaluated, [&] {
            all_tiles([&](int64_t i) { blend_tile<float, false>(a.frame, i, a.images()); });
        });
        measure(2, plain_pairs, [&] { for (int i = 0; i < 100; ++i) tile->backward(); });
        measure(3, pairs.evaluated, [&] {
            all_tiles([&](int64_t i) { blend_tile_backward<float, false, false>(a.frame, i, images, v_images, a.slots); });
        });
    }
    std::printf("evaluated %lld\ncontributing %lld\n", static_cast<long long>(pairs.evaluated),
                static_cast<long long>(pairs.contributing));
    const char* names[4] = {"plain_forward", "forward", "plain_backward", "backward"};
    for (int i = 0; i < 4; ++i) std::printf("%s %.4f\n", names[i], 1e9 * least[i]);  // ns per pair
}
