// Reads PTX text into kernels, variables and the table of source files. Bodies of kernels stay lists of statements, whose
// names are unique: registers of inner { } scopes get a number.
#pragma once

#include <bit>
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ptx {

/// The text cannot be read, or has what this emulation does not know.
struct TextError : std::runtime_error { using std::runtime_error::runtime_error; };

/// A line of the PTX text, the line of the source that it comes from, and the line where that was inlined (0 = none).
struct Place { uint32_t line = 0, file = 0, source_line = 0, caller_file = 0, caller_line = 0; };

/// An operand as written.
struct Argument {
    enum Kind { name, number, address, list } kind = name;  // list: {a, b} and a|b
    std::string text;                                       // the name, or the base of an address
    uint64_t bits = 0;                                      // the number, or the offset of an address
    char literal = 'i';                                     // i: integer, f: 32 bits of a float, d: 64 bits of a double
    bool is_negated = false;                                // !name
    std::vector<Argument> items;
};

struct Statement {
    std::string operation, guard, label;  // a label has no operation
    bool guard_is_negated = false;
    std::vector<Argument> arguments;
    Place place;
};

struct Variable {
    std::string name;
    uint64_t align = 1, size = 0;
    std::vector<uint8_t> initial;
};

struct Kernel {
    std::string name;
    std::vector<Variable> params, shared, local;
    std::unordered_map<std::string, std::string> registers;  // name to type
    std::vector<Statement> body;
    uint32_t max_threads = 1024;
};

struct Module {
    std::map<std::string, Kernel, std::less<>> kernels;
    std::vector<Variable> globals, shared;  // globals: .global and .const
    std::map<uint32_t, std::string> files;
};

/// Bytes of a type such as u32 or f64; 0 for pred.
inline uint32_t size_of(std::string_view type) {
    if (type == "pred") return 0;
    const std::string digits(type.substr(1));
    const int bits = std::atoi(digits.c_str());
    if (bits != 8 && bits != 16 && bits != 32 && bits != 64) throw TextError("unknown type " + std::string(type));
    return static_cast<uint32_t>(bits / 8);
}

class Reader {
  public:
    explicit Reader(std::string_view text) : text_(text) { next(); }

    Module read() {
        while (!token_.empty()) read_top_level();
        return std::move(module_);
    }

  private:
    [[noreturn]] void fail(const std::string& what) const {
        throw TextError("PTX line " + std::to_string(line_) + ": " + what + " at '" + std::string(token_) + "'");
    }

    static bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%'; }

    void next() {
        while (at_ < text_.size()) {
            const char c = text_[at_];
            if (c == '\n') ++line_;
            if (std::isspace(static_cast<unsigned char>(c))) ++at_;
            else if (text_.substr(at_, 2) == "//") at_ = std::min(text_.find('\n', at_), text_.size());
            else break;
        }
        if (at_ >= text_.size() || text_[at_] == '\0') {
            token_ = {};
            return;
        }
        size_t end = at_ + 1;
        const char first = text_[at_];
        if (first == '"') {
            end = text_.find('"', end) + 1;
        } else if (is_word(first) || first == '.') {  // dots belong to operations and directives
            while (end < text_.size() && (is_word(text_[end]) || text_[end] == '.' || text_.substr(end, 2) == "::")) ++end;
        }
        token_ = text_.substr(at_, end - at_);
        at_ = end;
    }
    std::string take() {
        if (token_.empty()) fail("the text ends early");
        std::string taken(token_);
        next();
        return taken;
    }
    bool accept(std::string_view expected) {
        if (token_ != expected) return false;
        next();
        return true;
    }
    void expect(std::string_view expected) {
        if (!accept(expected)) fail("expected " + std::string(expected));
    }
    uint64_t take_number() {
        const bool is_negative = accept("-");
        std::string word = take();
        if (word.back() == 'U') word.pop_back();
        char* end = nullptr;
        const uint64_t value = std::strtoull(word.c_str(), &end, 0);
        if (*end != '\0') fail("expected a number instead of " + word);
        return is_negative ? 0 - value : value;
    }
    void skip_to(std::string_view last) {
        while (!token_.empty() && token_ != last) next();
        next();
    }

    void read_top_level() {
        if (accept(".version") || accept(".target") || accept(".address_size")) {
            const uint32_t line = line_;
            do next();
            while (line_ == line && !token_.empty());
        } else if (token_ == ".file") {
            read_file();
        } else if (accept(".section")) {
            skip_to("}");
        } else if (accept(".visible") || accept(".extern") || accept(".weak") || accept(".common")) {
        } else if (accept(".entry")) {
            read_kernel();
        } else if (accept(".global") || accept(".const")) {
            module_.globals.push_back(read_variable());
            expect(";");
        } else if (accept(".shared")) {
            module_.shared.push_back(read_variable());
            expect(";");
        } else {
            fail("not known here");
        }
    }

    void read_file() {
        expect(".file");
        const auto number = static_cast<uint32_t>(take_number());
        std::string path = take();
        module_.files[number] = path.substr(1, path.size() - 2);
        while (accept(",")) take_number();
    }

    /// .align 4 .b8 name[16] = {1, 2}
    Variable read_variable() {
        Variable variable;
        uint32_t element = 0;
        while (token_.starts_with('.')) {
            if (accept(".align")) {
                variable.align = take_number();
            } else {
                const std::string word = take().substr(1);
                if (word != "ptr" && word != "attribute" && word != "v2" && word != "v4") element = size_of(word);
            }
        }
        variable.name = take();
        if (variable.align < element) variable.align = element;
        variable.size = element;
        if (accept("[")) {
            variable.size = token_ == "]" ? 0 : take_number() * element;
            expect("]");
        }
        if (accept("=")) {
            const bool is_list = accept("{");
            do {
                const uint64_t value = take_number();
                for (uint32_t i = 0; i < element; ++i) variable.initial.push_back(static_cast<uint8_t>(value >> 8 * i));
            } while (accept(","));
            if (is_list) expect("}");
        }
        return variable;
    }

    void read_kernel() {
        kernel_ = {};
        kernel_.name = take();
        place_ = {};
        if (accept("(")) {
            while (!accept(")")) {
                expect(".param");
                kernel_.params.push_back(read_variable());
                accept(",");
            }
        }
        while (token_ != "{") {
            const std::string directive = take();
            uint64_t product = take_number();
            while (accept(",")) product *= take_number();
            if (directive == ".maxntid" || directive == ".reqntid") kernel_.max_threads = static_cast<uint32_t>(product);
        }
        scopes_.clear();
        do {
            if (accept("{")) scopes_.emplace_back();
            else if (accept("}")) scopes_.pop_back();
            else read_statement();
        } while (!scopes_.empty());
        module_.kernels[kernel_.name] = std::move(kernel_);
    }

    void read_statement() {
        if (accept(".reg")) return read_registers();
        if (accept(".loc")) return read_loc();
        if (accept(".pragma")) return skip_to(";");
        if (accept(".shared")) {
            kernel_.shared.push_back(read_variable());
            return expect(";");
        }
        if (accept(".local")) {
            kernel_.local.push_back(read_variable());
            return expect(";");
        }
        Statement statement;
        if (accept("@")) {
            statement.guard_is_negated = accept("!");
            statement.guard = resolved(take());
        }
        place_.line = line_;
        statement.place = place_;
        std::string word = take();
        if (accept(":")) {
            statement.label = word;
        } else {
            statement.operation = std::move(word);
            while (!accept(";")) {
                statement.arguments.push_back(read_argument());
                accept(",");
            }
        }
        kernel_.body.push_back(std::move(statement));
    }

    void read_registers() {
        const std::string type = take().substr(1);
        do {
            const std::string name = take();
            if (accept("<")) {
                const uint64_t count = take_number();
                expect(">");
                for (uint64_t i = 0; i < count; ++i) kernel_.registers[name + std::to_string(i)] = type;
            } else {
                const std::string unique = scopes_.size() == 1 ? name : name + "#" + std::to_string(++num_scoped_);
                scopes_.back()[name] = unique;
                kernel_.registers[unique] = type;
            }
        } while (accept(","));
        expect(";");
    }

    /// .loc 1 20 5, function_name $L__info_string0, inlined_at 1 14 5
    void read_loc() {
        place_.file = static_cast<uint32_t>(take_number());
        place_.source_line = static_cast<uint32_t>(take_number());
        take_number();
        place_.caller_file = place_.caller_line = 0;
        while (accept(",")) {
            const bool is_inlined = take() == "inlined_at";  // or function_name
            if (!is_inlined) {
                take();
                if (accept("+")) take();
                continue;
            }
            place_.caller_file = static_cast<uint32_t>(take_number());
            place_.caller_line = static_cast<uint32_t>(take_number());
            take_number();
        }
    }

    std::string resolved(const std::string& name) const {
        for (size_t i = scopes_.size(); i-- > 0;)
            if (const auto found = scopes_[i].find(name); found != scopes_[i].end()) return found->second;
        return name;
    }

    Argument read_argument() {
        Argument argument;
        if (accept("{")) {
            argument.kind = Argument::list;
            do argument.items.push_back(read_argument());
            while (accept(","));
            expect("}");
            return argument;
        }
        if (accept("[")) {
            argument.kind = Argument::address;
            if (is_number()) argument.bits = take_number();
            else argument.text = resolved(take());
            if (accept("+")) argument.bits += take_number();
            expect("]");
            return argument;
        }
        argument.is_negated = accept("!");
        if (is_number()) {
            read_literal(argument);
            return argument;
        }
        argument.text = resolved(take());
        if (accept("|")) {
            Argument pair;
            pair.kind = Argument::list;
            pair.items.push_back(std::move(argument));
            pair.items.push_back(read_argument());
            return pair;
        }
        return argument;
    }
    bool is_number() const { return token_ == "-" || std::isdigit(static_cast<unsigned char>(token_[0])); }
    void read_literal(Argument& argument) {
        argument.kind = Argument::number;
        const bool is_float = token_.size() == 10 && (token_.starts_with("0f") || token_.starts_with("0F"));
        const bool is_double = token_.size() == 18 && (token_.starts_with("0d") || token_.starts_with("0D"));
        if (is_float || is_double) {
            argument.literal = is_float ? 'f' : 'd';
            argument.bits = std::strtoull(take().substr(2).c_str(), nullptr, 16);
        } else {
            argument.bits = take_number();
        }
    }

    std::string_view text_, token_;
    size_t at_ = 0;
    uint32_t line_ = 1;
    Module module_;
    Kernel kernel_;
    Place place_;
    std::vector<std::unordered_map<std::string, std::string>> scopes_;
    int num_scoped_ = 0;
};

}  // namespace ptx
