// The order of blending on the CPU: radix sort of the Gaussians by depth, then a stable counting sort into tiles.
#include "cpu_tiles.h"

#include <bit>
#include <numeric>

namespace dgr {
namespace {

using Key = uint64_t;

/// The bits of a positive number, which sort like the number.
inline Key key_of(float depth) { return std::bit_cast<uint32_t>(depth); }
inline Key key_of(double depth) { return std::bit_cast<uint64_t>(depth); }

/// The indices of the visible Gaussians, sorted by depth, then by index.
template <class T> Buffer<uint32_t> depth_order(const T* depth, const int32_t* radius_px, int64_t count) {
    constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
    int64_t num_visible = 0;
    for (int64_t i = 0; i < count; ++i) num_visible += radius_px[i] > 0;
    Buffer<uint32_t> order(num_visible), other(num_visible);
    Key all_or = 0, all_and = ~Key(0);
    for (int64_t i = 0, k = 0; i < count; ++i) {
        if (radius_px[i] == 0) continue;
        order[k++] = static_cast<uint32_t>(i);
        all_or |= key_of(depth[i]);
        all_and &= key_of(depth[i]);
    }
    const Key varying = all_or ^ all_and;  // digits that are equal in all keys need no pass
    for (int shift = 0; shift < static_cast<int>(8 * sizeof(T)); shift += kDigitBits) {
        if (((varying >> shift) & (kDigits - 1)) == 0) continue;
        int64_t begin[kDigits + 1] = {};
        const auto digit = [&](uint32_t i) { return (key_of(depth[i]) >> shift) & (kDigits - 1); };
        for (int64_t k = 0; k < num_visible; ++k) ++begin[digit(order[k]) + 1];
        std::partial_sum(begin, begin + kDigits, begin);
        for (int64_t k = 0; k < num_visible; ++k) other[begin[digit(order[k])]++] = order[k];
        std::swap(order, other);
    }
    return order;
}

/// Fills slot_begin, tile_begin and instances of a frame with splats and radii. depth (N): z in camera space, read
/// where radius_px > 0.
template <class T> void order_instances(Team& team, const T* depth, int64_t count, Frame<T>& frame) {
    const View<T>& view = frame.view;
    const int tiles_x = view.tiles_x();
    const int64_t num_tiles = view.num_tiles();
    const Buffer<uint32_t> order = depth_order(depth, frame.radius_px.data(), count);
    const int64_t num_chunks = order.size() == 0 ? 0 : team.size();
    const auto chunk_begin = [&](int64_t chunk) { return order.size() * chunk / num_chunks; };
    // Calls visit(gaussian, tile) for the instances of one chunk of the sorted Gaussians.
    const auto walk = [&](int64_t chunk, const auto& visit) {
        for (int64_t k = chunk_begin(chunk); k < chunk_begin(chunk + 1); ++k) {
            const Splat<T>& splat = frame.splats[order[k]];
            const TileBox box = tile_box(view, splat);
            for (int y = box.y_begin; y < box.y_end; ++y) {
                const TileSpan span = tile_span(view, splat, box, y);
                for (int x = span.begin; x < span.end; ++x) visit(order[k], int64_t(y) * tiles_x + x);
            }
        }
    };

    // cursor[chunk][tile]: first the number of instances, later the index of the chunk's next instance in the tile.
    Buffer<int64_t> cursor(num_chunks * num_tiles);
    frame.slot_begin = Buffer<int64_t>(count + 1);
    std::fill_n(frame.slot_begin.data(), count + 1, 0);
    team.for_each(num_chunks, [&](int64_t chunk) {
        int64_t* counts = cursor.data() + chunk * num_tiles;
        std::fill_n(counts, num_tiles, 0);
        walk(chunk, [&](uint32_t gaussian, int64_t tile) {
            ++counts[tile];
            ++frame.slot_begin[gaussian + 1];
        });
    });
    std::partial_sum(frame.slot_begin.data(), frame.slot_begin.data() + count + 1, frame.slot_begin.data());

    frame.tile_begin = Buffer<int64_t>(num_tiles + 1);
    int64_t next = 0;
    for (int64_t tile = 0; tile < num_tiles; ++tile) {
        frame.tile_begin[tile] = next;
        for (int64_t chunk = 0; chunk < num_chunks; ++chunk) {
            const int64_t in_chunk = cursor[chunk * num_tiles + tile];
            cursor[chunk * num_tiles + tile] = next;
            next += in_chunk;
        }
    }
    frame.tile_begin[num_tiles] = next;
    frame.instances = Buffer<Instance>(next);
    team.for_each(num_chunks, [&](int64_t chunk) {
        int64_t* place = cursor.data() + chunk * num_tiles;
        uint32_t gaussian_before = ~0u, local = 0;
        walk(chunk, [&](uint32_t gaussian, int64_t tile) {
            local = gaussian == gaussian_before ? local + 1 : 0;
            gaussian_before = gaussian;
            frame.instances[place[tile]++] = {gaussian, local};
        });
    });
}

}  // namespace

template <class T>
Frame<T> plan_frame(Team& team, const Gaussians<T>& gaussians, const View<T>& view, const Options& options) {
    Frame<T> frame;
    frame.view = view;
    frame.options = options;
    frame.splats = Buffer<Splat<T>>(gaussians.count);
    frame.radius_px = Buffer<int32_t>(gaussians.count);
    Buffer<T> depth(gaussians.count);
    project(team, gaussians, frame, depth.data());
    order_instances(team, depth.data(), gaussians.count, frame);
    return frame;
}

template Frame<float> plan_frame(Team&, const Gaussians<float>&, const View<float>&, const Options&);
template Frame<double> plan_frame(Team&, const Gaussians<double>&, const View<double>&, const Options&);

}  // namespace dgr
