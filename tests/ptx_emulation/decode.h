// From statements to instructions: registers get places, constants become registers, operations become functions.
#pragma once

#include <cxxabi.h>

#include "memory.h"

namespace ptx {

/// The function f over the lanes, for the operation's type; null if there is none.
template <class F, class... Ts> Handler over(std::string_view type) {
    Handler found = nullptr;
    const auto try_type = [&]<class T>(T) {
        constexpr char kind = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 's' : 'u';
        const char asked = type[0] == 'b' ? 'u' : type[0];
        if (asked == kind && size_of(type) == sizeof(T)) found = Lanewise<&F::template of<T>>::run;
    };
    (try_type(Ts{}), ...);
    return found;
}
template <class F> Handler over_floats(std::string_view type, bool flushes) {
    if (flushes && type == "f32") return Lanewise<&Flushing<&F::template of<float>>::of>::run;
    return over<F, float, double>(type);
}
template <class F> Handler over_integers(std::string_view type) {
    return over<F, uint16_t, int16_t, uint32_t, int32_t, uint64_t, int64_t>(type);
}
template <class F> Handler over_unsigned(std::string_view type) { return over<F, uint16_t, uint32_t, uint64_t>(type); }
template <class F> Handler over_numbers(std::string_view type, bool flushes) {
    return type[0] == 'f' ? over_floats<F>(type, flushes) : over_integers<F>(type);
}
template <class F> Handler comparison(std::string_view type, bool flushes) {
    if (flushes && type == "f32") return Compare<&Flushing<&F::template of<float>>::of>::run;
    Handler found = nullptr;
    const auto try_type = [&]<class T>(T) {
        constexpr char kind = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 's' : 'u';
        if ((type[0] == 'b' ? 'u' : type[0]) == kind && size_of(type) == sizeof(T)) found = Compare<&F::template of<T>>::run;
    };
    try_type(float{}), try_type(double{}), try_type(uint16_t{}), try_type(int16_t{}), try_type(uint32_t{});
    try_type(int32_t{}), try_type(uint64_t{}), try_type(int64_t{});
    return found;
}

/// Load or Store for a type in memory and the size of its registers.
template <template <class, class> class Access> Handler access(std::string_view type, uint32_t register_bytes) {
    const auto with = [&]<class T>(T) -> Handler {
        using Signed = std::make_signed_t<T>;
        if (type[0] == 's') {
            if (register_bytes == 8) return Access<Signed, int64_t>::run;
            return register_bytes == 4 ? Access<Signed, int32_t>::run : Access<Signed, int16_t>::run;
        }
        if (register_bytes == 8) return Access<T, uint64_t>::run;
        return register_bytes == 4 ? Access<T, uint32_t>::run : Access<T, uint16_t>::run;
    };
    switch (size_of(type)) {
        case 1: return with(uint8_t{});
        case 2: return with(uint16_t{});
        case 4: return with(uint32_t{});
        default: return with(uint64_t{});
    }
}

template <class F, class... Ts> Handler atomic(std::string_view type) {
    Handler found = nullptr;
    const auto try_type = [&]<class T>(T) {
        constexpr char kind = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 's' : 'u';
        if ((type[0] == 'b' ? 'u' : type[0]) == kind && size_of(type) == sizeof(T)) found = Atomic<T, &F::template of<T>>::run;
    };
    (try_type(Ts{}), ...);
    return found;
}

class Decoder {
  public:
    /// globals: addresses of the module's variables.
    Decoder(const Module& module, const Kernel& kernel, std::string_view text, const std::map<std::string, uint64_t>& globals)
        : module_(module), kernel_(kernel), globals_(globals) {
        code_.name = kernel.name, code_.files = &module.files, code_.text = text;
        code_.max_threads = kernel.max_threads;
        code_.num_registers = static_cast<uint32_t>(kernel.registers.size());
        char* shown = abi::__cxa_demangle(kernel.name.c_str(), nullptr, nullptr, nullptr);
        code_.shown_name = shown != nullptr ? short_name(shown) : kernel.name;
        std::free(shown);
    }

    Code decode() {
        place_variables();
        add_block_start(0);
        std::vector<std::pair<size_t, std::string>> branches;
        std::unordered_map<std::string, uint32_t> labels;
        bool starts_block = true;
        for (const Statement& statement : kernel_.body) {
            if (!statement.label.empty()) {
                if (!starts_block) add_block_start(statement.place.line);
                labels[statement.label] = static_cast<uint32_t>(code_.instructions.size()) - 1;
                starts_block = true;
                continue;
            }
            statement_ = &statement;
            Instruction instruction = decode(statement);
            if (instruction.kind == Kind::branch) branches.emplace_back(code_.instructions.size(), argument(0).text);
            code_.instructions.push_back(instruction);
            starts_block = instruction.kind == Kind::branch;
            if (starts_block) add_block_start(statement.place.line);
        }
        code_.instructions.emplace_back().kind = Kind::exit;
        for (const auto& [at, label] : branches) {
            if (!labels.contains(label)) throw TextError(code_.shown_name + ": no label " + label);
            code_.instructions[at].target = labels[label];
        }
        return std::move(code_);
    }

  private:
    [[noreturn]] void refuse(const std::string& what) const {
        throw TextError("PTX line " + std::to_string(statement_->place.line) + " of " + code_.shown_name + ": " + what +
                        ": " + statement_->operation);
    }

    /// Without namespaces, parameters and template arguments of other names: "blend_kernel<3>".
    static std::string short_name(std::string name) {
        int depth = 0;
        size_t begin = 0, end = name.size();
        for (size_t at = 0; at < name.size(); ++at) {
            if (name.compare(at, 21, "(anonymous namespace)") == 0) {
                at += 20;
                continue;
            }
            if (name[at] == '<') ++depth;
            if (name[at] == '>') --depth;
            if (depth > 0) continue;
            if (name[at] == ' ' || name.compare(at, 2, "::") == 0) begin = at + (name[at] == ' ' ? 1 : 2);
            if (name[at] == '(') {
                end = at;
                break;
            }
        }
        std::string out = name.substr(begin, end - begin);
        return out.size() <= 60 ? out : out.substr(0, out.find('<'));
    }

    void add_block_start(uint32_t line) {
        Instruction start;
        start.kind = Kind::block_start;
        start.place.line = line;
        code_.instructions.push_back(start);
    }

    // ---- Variables and registers ----

    void place_variables() {
        const auto put = [&](const Variable& variable, uint64_t& size) {
            size = (size + variable.align - 1) / variable.align * variable.align;
            symbols_[variable.name] = size;
            size += variable.size;
        };
        for (const Variable& param : kernel_.params) {
            put(param, code_.param_bytes);
            code_.params.emplace_back(symbols_[param.name], param.size);
        }
        for (const Variable& variable : kernel_.local) put(variable, code_.local_bytes);
        for (const Variable& variable : kernel_.shared) put(variable, code_.shared_bytes);
        for (const Variable& variable : module_.shared)
            if (variable.size > 0 && is_used(variable.name)) put(variable, code_.shared_bytes);
        for (const Variable& variable : module_.shared)
            if (variable.size == 0 && is_used(variable.name)) put(variable, code_.shared_bytes);  // extern: the dynamic part
    }
    bool is_used(const std::string& name) const {
        for (const Statement& statement : kernel_.body)
            for (const Argument& argument : statement.arguments)
                if (argument.text == name) return true;
        return false;
    }

    Operand new_register(uint32_t bytes) {
        const Operand operand{code_.slot_bytes, code_.num_known++};
        code_.slot_bytes += std::max(64u, bytes * kLanes);
        return operand;
    }
    uint32_t register_bytes(const std::string& name) const {
        const auto found = kernel_.registers.find(name);
        return found == kernel_.registers.end() ? 0 : size_of(found->second);
    }
    bool is_register(const std::string& name) const { return kernel_.registers.contains(name); }

    Operand constant(uint64_t bits, uint32_t bytes) {
        if (bytes % 8 != 0) bits &= (1ull << 8 * bytes) - 1;
        const auto key = std::pair(bits, bytes);
        if (const auto found = constants_.find(key); found != constants_.end()) return found->second;
        Operand operand = new_register(bytes);
        code_.constants.push_back({operand, bits, bytes});
        return constants_[key] = operand;
    }

    /// The operand of a name or number, as a register of some bytes (0 = a predicate).
    Operand operand(const Argument& argument, uint32_t bytes) {
        if (argument.kind == Argument::number) {
            uint64_t bits = argument.bits;
            if (argument.literal == 'f' && bytes == 8) bits = std::bit_cast<uint64_t>(static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits))));
            if (argument.literal == 'd' && bytes == 4) bits = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(bits)));
            return constant(bits, bytes);
        }
        if (argument.kind != Argument::name) refuse("an operand that is not known");
        const std::string& name = argument.text;
        if (is_register(name)) {
            if (register_bytes(name) != bytes) refuse(name + " has another size than the operation");
            const auto [at, is_new] = registers_.try_emplace(name);
            if (is_new) at->second = new_register(bytes);
            return at->second;
        }
        if (name[0] == '%') {
            const auto [at, is_new] = registers_.try_emplace(name);
            if (is_new) {
                at->second = new_register(8);  // room for %clock64; others use the first half
                code_.specials.emplace_back(at->second, name);
            }
            return at->second;
        }
        if (name == "_") return new_register(bytes);  // nobody reads it
        return constant(symbol(name), bytes);
    }
    uint64_t symbol(const std::string& name) const {
        if (const auto found = symbols_.find(name); found != symbols_.end()) return found->second;
        if (const auto found = globals_.find(name); found != globals_.end()) return found->second;
        refuse("no register or variable has the name " + name);
    }

    const Argument& argument(size_t i) const {
        if (i >= statement_->arguments.size()) refuse("too few operands");
        return statement_->arguments[i];
    }
    Operand operand(size_t i, uint32_t bytes) { return operand(argument(i), bytes); }

    /// Base and offset of argument i.
    void set_address(Instruction& out, size_t i) {
        const Argument& address = argument(i);
        if (address.kind != Argument::address) refuse("expected an address");
        out.offset = address.bits;
        if (is_register(address.text)) {
            out.in_bytes = static_cast<uint8_t>(register_bytes(address.text));
            Argument base;
            base.text = address.text;
            out.in[0] = operand(base, out.in_bytes);
        } else {
            out.in_bytes = 8;
            out.in[0] = constant(0, 8);
            if (!address.text.empty()) out.offset += symbol(address.text);
        }
    }

    void set_mask(Instruction& out, size_t i) {
        out.kind = Kind::warp_sync;
        out.mask = operand(i, 4);
    }

    // ---- Operations ----

    static std::vector<std::string> words_of(const std::string& operation) {
        std::vector<std::string> words;
        for (size_t begin = 0; begin <= operation.size();) {
            const size_t end = std::min(operation.find('.', begin), operation.size());
            words.push_back(operation.substr(begin, end - begin));
            begin = end + 1;
        }
        return words;
    }
    bool has(std::string_view word) const { return std::find(words_.begin(), words_.end(), word) != words_.end(); }

    Instruction decode(const Statement& statement) {
        words_ = words_of(statement.operation);
        base_ = words_[0], type_ = words_.back();
        Instruction out;
        out.place = statement.place;
        if (!statement.guard.empty()) {
            Argument guard;
            guard.text = statement.guard;
            out.has_guard = true, out.guard_is_negated = statement.guard_is_negated;
            out.guard = operand(guard, 0);
        }
        if (has("rz") || has("rm") || has("rp")) {
            if (base_ != "cvt" && !(base_ == "fma" && type_ == "f32" && has("rm")))
                refuse("only rounding to the nearest is known");
        }
        if (!decode_flow(out) && !decode_memory(out) && !decode_meeting(out) && !decode_predicates(out) &&
            !decode_moves(out) && !decode_arithmetic(out))
            refuse("this operation is not known");
        return out;
    }

    bool decode_flow(Instruction& out) {
        out.num_out = 0;
        if (base_ == "bra") out.kind = Kind::branch;
        else if (base_ == "ret" || base_ == "exit") out.kind = Kind::exit;
        else if (base_ == "nanosleep") out.kind = Kind::yield;
        else if (base_ == "trap") out.run = [](Warp& w, const Instruction& i, uint32_t lanes) { fault(w, i, first_lane(lanes), "trap"); };
        else if (base_ == "membar" || base_ == "fence" || base_ == "prefetch") out.run = no_operation;
        else return false;
        return true;
    }

    bool decode_memory(Instruction& out) {
        if (base_ != "ld" && base_ != "ldu" && base_ != "st" && base_ != "atom" && base_ != "red") return false;
        out.space = has("global") || has("const") ? Space::global : has("shared") || has("shared::cta") ? Space::shared
                    : has("local") ? Space::local : has("param") ? Space::param : Space::generic;
        out.is_unordered = has("volatile") || has("relaxed") || has("acquire") || has("release");
        if (base_ == "atom" || base_ == "red") {
            decode_atomic(out);
            out.is_unordered = false;
        } else if (base_ == "st") {
            set_address(out, 0);
            const auto& values = list(1);
            const uint32_t bytes = value_bytes(values, size_of(type_));
            out.num_out = 0, out.choice = static_cast<uint8_t>(values.size());
            for (size_t k = 0; k < values.size(); ++k) out.in[1 + k] = operand(values[k], bytes);
            out.run = access<Store>(type_, bytes);
        } else {
            set_address(out, 1);
            const auto& values = list(0);
            const uint32_t bytes = value_bytes(values, size_of(type_));
            out.num_out = static_cast<uint8_t>(values.size());
            for (size_t k = 0; k < values.size(); ++k) out.out[k] = operand(values[k], bytes);
            out.run = access<Load>(type_, bytes);
        }
        if (out.space != Space::global && out.space != Space::param) code_.shared_grain = std::min(code_.shared_grain, size_of(type_));
        return true;
    }
    /// The items of argument i, or itself.
    const std::vector<Argument>& list(size_t i) {
        if (argument(i).kind == Argument::list) return argument(i).items;
        return single_ = {argument(i)};
    }
    uint32_t value_bytes(const std::vector<Argument>& values, uint32_t otherwise) const {
        for (const Argument& value : values)
            if (is_register(value.text)) return register_bytes(value.text);
        return std::max(otherwise, 2u);
    }
    void decode_atomic(Instruction& out) {
        const bool gives = base_ == "atom";
        const uint32_t bytes = size_of(type_);
        out.num_out = gives;
        if (gives) out.out[0] = operand(0, bytes);
        set_address(out, gives);
        out.in[1] = operand(gives + 1u, bytes);
        if (has("add")) out.run = atomic<Add, uint32_t, int32_t, uint64_t, int64_t, float, double>(type_);
        else if (has("max")) out.run = atomic<Max, uint32_t, int32_t, uint64_t, int64_t>(type_);
        else if (has("min")) out.run = atomic<Min, uint32_t, int32_t, uint64_t, int64_t>(type_);
        else if (has("and")) out.run = atomic<And, uint32_t, uint64_t>(type_);
        else if (has("or")) out.run = atomic<Or, uint32_t, uint64_t>(type_);
        else if (has("xor")) out.run = atomic<Xor, uint32_t, uint64_t>(type_);
        else if (has("exch")) out.run = atomic<Exchange, uint32_t, uint64_t>(type_);
        else if (has("inc")) out.run = atomic<Increment, uint32_t>(type_);
        else if (has("dec")) out.run = atomic<Decrement, uint32_t>(type_);
        else if (has("cas")) {
            out.in[2] = operand(gives + 2u, bytes);
            if (bytes == 4) out.run = Atomic<uint32_t, &Exchange::of<uint32_t>, true>::run;
            if (bytes == 8) out.run = Atomic<uint64_t, &Exchange::of<uint64_t>, true>::run;
        }
        if (out.run == nullptr) refuse("this atomic operation is not known");
    }

    bool decode_meeting(Instruction& out) {
        if (base_ == "bar" && has("warp")) {
            out.num_out = 0;
            out.run = no_operation;
            set_mask(out, 0);
        } else if (base_ == "bar" || base_ == "barrier") {
            decode_barrier(out);
        } else if (base_ == "shfl") {
            out.choice = static_cast<uint8_t>(has("up") ? Shuffle::up : has("down") ? Shuffle::down
                                              : has("bfly") ? Shuffle::butterfly : Shuffle::index);
            const auto results = list(0);
            out.num_out = static_cast<uint8_t>(results.size());
            out.out[0] = operand(results[0], 4);
            if (results.size() > 1) out.out[1] = operand(results[1], 0);
            for (size_t k = 0; k < 3; ++k) out.in[k] = operand(k + 1, 4);
            out.run = shuffle;
            set_mask(out, 4);
        } else if (base_ == "vote") {
            out.choice = static_cast<uint8_t>(has("all") ? Vote::all : has("any") ? Vote::any
                                              : has("uni") ? Vote::uniform : Vote::ballot);
            out.out[0] = operand(0, has("ballot") ? 4 : 0);
            out.in[0] = operand(1, 0);
            out.negated_inputs = argument(1).is_negated;
            out.num_out = 1;
            out.run = vote;
            set_mask(out, 2);
        } else if (base_ == "match" && has("any")) {
            out.num_out = 1;
            out.out[0] = operand(0, 4);
            out.in[0] = operand(1, size_of(type_));
            out.run = size_of(type_) == 4 ? match_any<uint32_t> : match_any<uint64_t>;
            set_mask(out, 2);
        } else {
            return false;
        }
        return true;
    }
    void decode_barrier(Instruction& out) {
        out.kind = Kind::barrier;
        const bool reduces = has("red");
        if (argument(reduces).kind != Argument::number || argument(reduces).bits != 0 ||
            statement_->arguments.size() != (reduces ? 3 : 1))
            refuse("only barrier 0 of all threads is known");
        out.num_out = reduces;
        if (!reduces) return;
        out.choice = static_cast<uint8_t>(has("and") ? Reduction::all : has("or") ? Reduction::any : Reduction::count);
        out.out[0] = operand(0, has("popc") ? 4 : 0);
        out.in[0] = operand(2, 0);
        out.negated_inputs = argument(2).is_negated;
    }

    bool decode_predicates(Instruction& out) {
        if (base_ == "setp") {
            decode_setp(out);
            return true;
        }
        if (base_ == "selp") {
            const uint32_t bytes = size_of(type_);
            out.num_out = 1;
            out.out[0] = operand(0, bytes), out.in[0] = operand(1, bytes), out.in[1] = operand(2, bytes);
            out.in[2] = operand(3, 0);
            out.run = bytes == 2 ? select<uint16_t> : bytes == 4 ? select<uint32_t> : select<uint64_t>;
            return true;
        }
        if (type_ != "pred") return false;
        static const std::map<std::string, uint8_t> choices = {{"and", 0}, {"or", 1}, {"xor", 2}, {"not", 3}, {"mov", 4}};
        const auto found = choices.find(base_);
        if (found == choices.end()) return false;
        out.choice = found->second, out.num_out = 1, out.run = predicate_logic;
        out.out[0] = operand(0, 0);
        for (size_t k = 0; k < (out.choice < 3 ? 2u : 1u); ++k) {
            out.in[k] = operand(k + 1, 0);
            if (argument(k + 1).is_negated) out.negated_inputs |= static_cast<uint8_t>(1u << k);
        }
        return true;
    }
    void decode_setp(Instruction& out) {
        const auto results = list(0);
        out.num_out = static_cast<uint8_t>(results.size());
        for (size_t k = 0; k < results.size(); ++k) out.out[k] = operand(results[k], 0);
        const uint32_t bytes = size_of(type_);
        out.in[0] = operand(1, bytes), out.in[1] = operand(2, bytes);
        if (has("and") || has("or") || has("xor")) {
            out.choice = has("and") ? 1 : has("or") ? 2 : 3;
            out.in[2] = operand(3, 0);
            if (argument(3).is_negated) out.negated_inputs = 4;
        }
        static const std::map<std::string, Handler (*)(std::string_view, bool)> comparisons = {
            {"eq", comparison<Eq>}, {"ne", comparison<Ne>}, {"lt", comparison<Lt>}, {"le", comparison<Le>},
            {"gt", comparison<Gt>}, {"ge", comparison<Ge>}, {"lo", comparison<Lt>}, {"ls", comparison<Le>},
            {"hi", comparison<Gt>}, {"hs", comparison<Ge>}, {"equ", comparison<Equ>}, {"neu", comparison<Neu>},
            {"ltu", comparison<Ltu>}, {"leu", comparison<Leu>}, {"gtu", comparison<Gtu>}, {"geu", comparison<Geu>},
            {"num", comparison<IsNumber>}, {"nan", comparison<IsNan>}};
        const auto found = comparisons.find(words_[1]);
        if (found == comparisons.end()) refuse("this comparison is not known");
        out.run = found->second(type_, has("ftz"));
        if (out.run == nullptr) refuse("this type is not known");
    }

    bool decode_moves(Instruction& out) {
        if (base_ == "mov" && argument(1).kind == Argument::list) {
            const auto items = argument(1).items;
            out.in_bytes = static_cast<uint8_t>(size_of(type_) / items.size());
            out.out_bytes = static_cast<uint8_t>(size_of(type_));
            out.choice = static_cast<uint8_t>(items.size()), out.num_out = 1;
            out.out[0] = operand(0, out.out_bytes);
            for (size_t k = 0; k < items.size(); ++k) out.in[k] = operand(items[k], out.in_bytes);
            out.run = pack;
        } else if (base_ == "mov" && argument(0).kind == Argument::list) {
            const auto items = argument(0).items;
            out.out_bytes = static_cast<uint8_t>(size_of(type_) / items.size());
            out.in_bytes = static_cast<uint8_t>(size_of(type_));
            out.num_out = static_cast<uint8_t>(items.size());
            for (size_t k = 0; k < items.size(); ++k) out.out[k] = operand(items[k], out.out_bytes);
            out.in[0] = operand(1, out.in_bytes);
            out.run = unpack;
        } else if (base_ == "cvta") {
            const uint64_t window = has("shared") ? kSharedWindow : has("local") ? kLocalWindow : 0;
            plain(out, 8, {8});
            out.in[1] = constant(has("to") ? 0 - window : window, 8);
            out.run = Lanewise<&Add::of<uint64_t>>::run;
        } else if (base_ == "cvt") {
            decode_cvt(out);
        } else {
            return false;
        }
        return true;
    }
    void decode_cvt(Instruction& out) {
        const std::string to = words_[words_.size() - 2], from = type_;
        const bool to_integral = has("rni") || has("rzi") || has("rmi") || has("rpi");
        if (has("sat") && to[0] != 'f') refuse("sat to an integer is not known");
        if (!to_integral && to[0] == 'f' && (has("rz") || has("rm") || has("rp"))) refuse("only rounding to the nearest is known");
        const Rounding rounding = has("rni") ? Rounding::nearest : has("rzi") ? Rounding::zero : has("rmi") ? Rounding::down
                                  : has("rpi") ? Rounding::up : Rounding::none;
        if (from[0] == 'f' && to[0] != 'f' && !to_integral) refuse("expected a rounding");
        const auto kind = [](const std::string& type) { return type[0] == 'b' ? 'u' : type[0]; };
        const Conversion conversion{kind(from), kind(to), static_cast<uint8_t>(size_of(from)), static_cast<uint8_t>(size_of(to)),
                                    rounding, to_integral, has("sat"), has("ftz")};
        out.num_out = 1;
        out.out_bytes = static_cast<uint8_t>(value_bytes(list(0), size_of(to)));
        out.in_bytes = static_cast<uint8_t>(value_bytes(list(1), size_of(from)));
        out.out[0] = operand(0, out.out_bytes), out.in[0] = operand(1, out.in_bytes);
        out.offset = std::bit_cast<uint64_t>(conversion);
        out.run = convert;
        if (out.out_bytes == size_of(to) && out.in_bytes == size_of(from)) {  // the frequent ones, faster
            if (from == "s32" && to == "s64") out.run = Lanewise<&Cast<int64_t>::of<int32_t>>::run;
            if (from == "u32" && to == "u64") out.run = Lanewise<&Cast<uint64_t>::of<uint32_t>>::run;
            if (from == "u64" && to == "u32") out.run = Lanewise<&Cast<uint32_t>::of<uint64_t>>::run;
            if (from == "s32" && to == "f32") out.run = Lanewise<&Cast<float>::of<int32_t>>::run;
        }
    }

    /// Sets result and inputs, given their sizes.
    void plain(Instruction& out, uint32_t result_bytes, std::initializer_list<uint32_t> input_bytes) {
        out.num_out = 1;
        out.out[0] = operand(0, result_bytes);
        size_t k = 0;
        for (const uint32_t bytes : input_bytes) {
            out.in[k] = operand(k + 1, bytes);
            ++k;
        }
        if (statement_->arguments.size() != k + 1) refuse("another number of operands is known");
    }

    bool decode_arithmetic(Instruction& out) {
        const uint32_t b = size_of(type_);
        const bool ftz = has("ftz");
        if (has("sat") || has("cc") || has("f16") || has("f16x2")) return false;
        if (base_ == "mov") plain(out, b, {b}), out.run = over_unsigned<Move>("u" + std::to_string(8 * b));
        else if (base_ == "add") plain(out, b, {b, b}), out.run = over_numbers<Add>(type_, ftz);
        else if (base_ == "sub") plain(out, b, {b, b}), out.run = over_numbers<Sub>(type_, ftz);
        else if (base_ == "mul" && has("wide")) plain(out, 2 * b, {b, b}), out.run = over<MulWide, uint16_t, int16_t, uint32_t, int32_t>(type_);
        else if (base_ == "mul" && has("hi")) plain(out, b, {b, b}), out.run = over_integers<MulHigh>(type_);
        else if (base_ == "mul") plain(out, b, {b, b}), out.run = over_numbers<Mul>(type_, ftz);
        else if (base_ == "mad" && has("wide")) plain(out, 2 * b, {b, b, 2 * b}), out.run = over<MadWide, uint16_t, int16_t, uint32_t, int32_t>(type_);
        else if (base_ == "mad" && has("hi")) plain(out, b, {b, b, b}), out.run = over_integers<MadHigh>(type_);
        else if (base_ == "mad" && has("lo")) plain(out, b, {b, b, b}), out.run = over_integers<Mad>(type_);
        else if (base_ == "fma" && has("rm")) plain(out, b, {b, b, b}), out.run = approximation<&FmaDown::of>(ftz);
        else if (base_ == "fma" || base_ == "mad") plain(out, b, {b, b, b}), out.run = over_floats<Fma>(type_, ftz);
        else if (base_ == "div") plain(out, b, {b, b}), out.run = over_numbers<Div>(type_, ftz);
        else if (base_ == "rem") plain(out, b, {b, b}), out.run = over_integers<Rem>(type_);
        else if (base_ == "min") plain(out, b, {b, b}), out.run = over_numbers<Min>(type_, ftz);
        else if (base_ == "max") plain(out, b, {b, b}), out.run = over_numbers<Max>(type_, ftz);
        else if (base_ == "neg") plain(out, b, {b}), out.run = over_numbers<Neg>(type_, ftz);
        else if (base_ == "abs") plain(out, b, {b}), out.run = type_[0] == 'f' ? over_floats<Abs>(type_, ftz) : over<Abs, int16_t, int32_t, int64_t>(type_);
        else if (base_ == "sqrt") plain(out, b, {b}), out.run = over_floats<Sqrt>(type_, ftz);
        else if (base_ == "rcp") plain(out, b, {b}), out.run = over_floats<Rcp>(type_, ftz);
        else if (type_ == "f32" && has("approx")) return decode_approximation(out, ftz);
        else return decode_bits(out, b);
        return out.run != nullptr;
    }
    template <auto f> static Handler approximation(bool flushes) { return flushes ? Lanewise<&Flushing<f>::of>::run : Lanewise<f>::run; }
    bool decode_approximation(Instruction& out, bool ftz) {
        plain(out, 4, {4});
        if (base_ == "ex2") out.run = approximation<&Exp2::of>(ftz);
        else if (base_ == "lg2") out.run = approximation<&Log2::of>(ftz);
        else if (base_ == "rsqrt") out.run = approximation<&Rsqrt::of>(ftz);
        else if (base_ == "sin") out.run = approximation<&Sine::of>(ftz);
        else if (base_ == "cos") out.run = approximation<&Cosine::of>(ftz);
        return out.run != nullptr;
    }
    bool decode_bits(Instruction& out, uint32_t b) {
        if (base_ == "and") plain(out, b, {b, b}), out.run = over_unsigned<And>(type_);
        else if (base_ == "or") plain(out, b, {b, b}), out.run = over_unsigned<Or>(type_);
        else if (base_ == "xor") plain(out, b, {b, b}), out.run = over_unsigned<Xor>(type_);
        else if (base_ == "not") plain(out, b, {b}), out.run = over_unsigned<Not>(type_);
        else if (base_ == "shl") plain(out, b, {b, 4}), out.run = over_unsigned<ShiftLeft>(type_);
        else if (base_ == "shr") plain(out, b, {b, 4}), out.run = over_integers<ShiftRight>(type_);
        else if (base_ == "popc") plain(out, 4, {b}), out.run = over<PopCount, uint32_t, uint64_t>(type_);
        else if (base_ == "clz") plain(out, 4, {b}), out.run = over<CountZeros, uint32_t, uint64_t>(type_);
        else if (base_ == "brev") plain(out, b, {b}), out.run = over<ReverseBits, uint32_t, uint64_t>(type_);
        else if (base_ == "bfind" && has("shiftamt")) plain(out, 4, {b}), out.run = over<FindShift, uint32_t, int32_t, uint64_t, int64_t>(type_);
        else if (base_ == "bfind") plain(out, 4, {b}), out.run = over<FindBit, uint32_t, int32_t, uint64_t, int64_t>(type_);
        else if (base_ == "bmsk" && has("clamp")) plain(out, 4, {4, 4}), out.run = Lanewise<&BitMask::of>::run;
        else if (base_ == "bfe") plain(out, b, {b, 4, 4}), out.run = over<ExtractBits, uint32_t, int32_t, uint64_t, int64_t>(type_);
        else if (base_ == "bfi") plain(out, b, {b, b, 4, 4}), out.run = over<InsertBits, uint32_t, uint64_t>(type_);
        else if (base_ == "prmt" && words_.size() == 2) plain(out, 4, {4, 4, 4}), out.run = Lanewise<&Permute::of>::run;
        else if (base_ == "shf") plain(out, 4, {4, 4, 4}), out.run = funnel();
        else if (base_ == "lop3") plain(out, 4, {4, 4, 4, 4}), out.run = Lanewise<&Logic3::of>::run;
        else return false;
        return out.run != nullptr;
    }
    Handler funnel() const {
        if (has("l")) return has("clamp") ? Lanewise<&FunnelShift<true, true>::of>::run : Lanewise<&FunnelShift<true, false>::of>::run;
        return has("clamp") ? Lanewise<&FunnelShift<false, true>::of>::run : Lanewise<&FunnelShift<false, false>::of>::run;
    }

    const Module& module_;
    const Kernel& kernel_;
    const std::map<std::string, uint64_t>& globals_;
    Code code_;
    const Statement* statement_ = nullptr;
    std::vector<std::string> words_;
    std::string base_, type_;
    std::vector<Argument> single_;
    std::unordered_map<std::string, Operand> registers_;
    std::map<std::pair<uint64_t, uint32_t>, Operand> constants_;
    std::unordered_map<std::string, uint64_t> symbols_;
};

}  // namespace ptx
