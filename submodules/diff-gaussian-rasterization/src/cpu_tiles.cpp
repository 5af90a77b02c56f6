// The order of blending on the CPU: radix sort of the Gaussians by depth, then a stable counting sort into tiles.
#include "cpu_tiles.h"

#include <bit>
#include <numeric>
#include <type_traits>
#include <vector>

namespace dgr {
namespace {

template <class T> using KeyOf = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;

/// The indices of the visible Gaussians, sorted by depth, then by index.
template <class T> Buffer<uint32_t> depth_order(const T* depth, const int32_t* radius_px, int64_t count) {
    constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
    constexpr int kPasses = (8 * sizeof(T) + kDigitBits - 1) / kDigitBits;
    struct Item { KeyOf<T> key; uint32_t index; };
    const auto digit = [](KeyOf<T> key, int pass) { return (key >> (pass * kDigitBits)) & (kDigits - 1); };
    Buffer<Item> items(count), other(count);
    int64_t begin[kPasses][kDigits] = {}, num_visible = 0;
    for (int64_t i = 0; i < count; ++i) {
        if (radius_px[i] == 0) continue;
        const KeyOf<T> key = std::bit_cast<KeyOf<T>>(depth[i]);  // the bits of positive numbers sort like the numbers
        items[num_visible++] = {key, static_cast<uint32_t>(i)};
        for (int pass = 0; pass < kPasses; ++pass) ++begin[pass][digit(key, pass)];
    }
    for (int pass = 0; pass < kPasses && num_visible > 0; ++pass) {
        if (begin[pass][digit(items[0].key, pass)] == num_visible) continue;  // this digit is equal in all keys
        std::exclusive_scan(begin[pass], begin[pass] + kDigits, begin[pass], int64_t(0));
        for (int64_t k = 0; k < num_visible; ++k) other[begin[pass][digit(items[k].key, pass)]++] = items[k];
        std::swap(items, other);
    }
    Buffer<uint32_t> order(num_visible);
    for (int64_t k = 0; k < num_visible; ++k) order[k] = items[k].index;
    return order;
}

/// The tiles that each visible Gaussian touches, row by row.
class TileLists {
  public:
    /// Writes the number of tiles of each Gaussian to counts (N).
    template <class T> TileLists(Team& team, const Frame<T>& frame, int64_t count, int64_t* counts)
        : lists_((count + kChunk - 1) / kChunk), begin_(count) {
        const int tiles_x = frame.view.tiles_x();
        team.for_each(lists_.size(), [&](int64_t chunk) {
            std::vector<uint32_t>& list = lists_[chunk];
            list.reserve(2 * kChunk);
            for (int64_t i = chunk * kChunk; i < std::min(count, (chunk + 1) * kChunk); ++i) {
                begin_[i] = static_cast<int64_t>(list.size());
                if (frame.radius_px[i] > 0) append(frame.view, frame.splats[i], tiles_x, list);
                counts[i] = static_cast<int64_t>(list.size()) - begin_[i];
            }
        });
    }
    const uint32_t* of(int64_t gaussian) const { return lists_[gaussian / kChunk].data() + begin_[gaussian]; }

  private:
    static constexpr int64_t kChunk = 1024;  // Gaussians

    template <class T>
    static void append(const View<T>& view, const Splat<T>& splat, int tiles_x, std::vector<uint32_t>& list) {
        const TileBox box = tile_box(view, splat);
        for (int y = box.y_begin; y < box.y_end; ++y) {
            const TileSpan span = tile_span(view, splat, box, y);
            for (int x = span.begin; x < span.end; ++x) list.push_back(y * tiles_x + x);
        }
    }

    std::vector<std::vector<uint32_t>> lists_;
    Buffer<int64_t> begin_;  // (N), in the list of the Gaussian's chunk
};

/// Fills slot_begin, tile_begin and instances of a frame with splats and radii. depth (N): z in camera space, read
/// where radius_px > 0.
template <class T> void order_instances(Team& team, const T* depth, int64_t count, Frame<T>& frame) {
    const int64_t num_tiles = frame.view.num_tiles();
    frame.slot_begin = Buffer<int64_t>(count + 1);
    frame.slot_begin[0] = 0;
    const TileLists tiles(team, frame, count, frame.slot_begin.data() + 1);
    std::partial_sum(frame.slot_begin.data(), frame.slot_begin.data() + count + 1, frame.slot_begin.data());
    const Buffer<uint32_t> order = depth_order(depth, frame.radius_px.data(), count);
    const int64_t num_chunks = order.size() == 0 ? 0 : team.size();
    // Calls visit(instance, tile) for the instances of one chunk of the sorted Gaussians.
    const auto walk = [&](int64_t chunk, const auto& visit) {
        const int64_t end = order.size() * (chunk + 1) / num_chunks;
        for (int64_t k = order.size() * chunk / num_chunks; k < end; ++k) {
            const uint32_t* list = tiles.of(order[k]);
            const auto size = static_cast<uint32_t>(frame.slot_begin[order[k] + 1] - frame.slot_begin[order[k]]);
            for (uint32_t local = 0; local < size; ++local) visit(Instance{order[k], local}, list[local]);
        }
    };

    // cursor[chunk][tile]: first the number of instances, later the index of the chunk's next instance in the tile.
    Buffer<int64_t> cursor(num_chunks * num_tiles);
    team.for_each(num_chunks, [&](int64_t chunk) {
        int64_t* counts = cursor.data() + chunk * num_tiles;
        std::fill_n(counts, num_tiles, 0);
        walk(chunk, [&](Instance, uint32_t tile) { ++counts[tile]; });
    });
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
        walk(chunk, [&](Instance instance, uint32_t tile) { frame.instances[place[tile]++] = instance; });
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
