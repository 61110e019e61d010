// Neighbouring columns of a row, as many as a thread takes at a time. A kernel gives the arithmetic of one number, and says
// with `of` and `put` where the numbers come from and go to:
//   at.put(y, at.of([](float a, float b) { return a + b; }, x, z))      y[column] = x[column] + z[column]
// Sources are pointers to a row, or what another `of` gave.
#pragma once
#include "number.h"
#include "reduce.h"

// One column.
struct One {
    typedef float Value;
    static constexpr uint32_t WIDTH = 1;
    Index column;
    template <class Stored> MEMBER float get(const Stored* row) const { return row[column]; }
    MEMBER float get(float value) const { return value; }
    template <class F, class... From> MEMBER float of(F f, From... from) const { return f(get(from)...); }
    template <class Stored> MEMBER void put(Stored* row, float value) const { row[column] = value; }
    MEMBER One from(Index first) const { return {column - first}; }  // the same column, counted from `first`
    static MEMBER float& lane(float& value, uint32_t) { return value; }
};

#if !defined(ZGAN_HOST)
#include "piece.h"

// As many columns as sixteen bytes hold, which are read and written together.
struct Numbers { float lane[PIECE]; };
struct Run {
    typedef Numbers Value;
    static constexpr uint32_t WIDTH = PIECE;
    Index column;
    template <class Stored> MEMBER Numbers get(const Stored* row) const {
        Numbers n;
        load_whole(n.lane, row + column);
        return n;
    }
    MEMBER const Numbers& get(const Numbers& numbers) const { return numbers; }
    template <class F, class... From> static MEMBER Numbers joined(F f, const From&... from) {
        Numbers n;
        UNROLL
        for (int i = 0; i < PIECE; i++) n.lane[i] = f(from.lane[i]...);
        return n;
    }
    template <class F, class... From> MEMBER Numbers of(F f, const From&... from) const { return joined(f, get(from)...); }
    MEMBER void put(T* row, const Numbers& numbers) const { store_whole(row + column, numbers.lane); }
    MEMBER Run from(Index first) const { return {column - first}; }
    static MEMBER float& lane(Numbers& numbers, uint32_t i) { return numbers.lane[i]; }
};

// Whether rows of C columns consist of such runs, and begin with one.
template <class... From> DEVICE bool in_runs(uint32_t C, From... rows) { return C % PIECE == 0 && (aligned(rows) && ...); }
#else
template <class... From> DEVICE bool in_runs(uint32_t, From...) { return false; }
#endif
