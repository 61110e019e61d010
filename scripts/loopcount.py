#!/usr/bin/env python3
"""Counts what a warp issues in one turn of a product's steady loops, from machine code alone.

  scripts/loopcount.py FILE [FILTER] [--arch sm_90|sm_80] [--json] [--verbose] [--trips N]
  scripts/loopcount.py --zgan target/release/zgan

FILE is a cubin (which nvdisasm reads, from $NVDISASM or PATH), or text that `nvdisasm -c` or `zgan kernels --sass NAME` wrote.
FILTER is a regular expression for names of kernels. CUTLASS's kernels were counted by this program.

It is the peer of src/instruments/gate/loops.rs, and was written before it, apart from it. With --zgan it counts every product of
the program on two generations of GPUs, and fails where `zgan kernels --loops` counts something else.

How it counts: it makes the control flow graph of a kernel and finds its loops (strongly connected components). Steady loops are
the innermost ones that have half of the most MMAs or more (HMMA and its like, else FFMA) and either fill shared memory or have a
barrier. An inner loop with MMAs counts as often as it is passed. Of the paths through one turn it takes two:
  lean   Branches that depend on parameters alone go the cheapest way that has all MMAs, the most asynchronous copies, no calls
         and no inner loop of unknown length. All other branches, which depend on the thread or on the turn, go the longer way.
  rich   Branches that depend on parameters go the dearest way without calls.
Every instruction takes one issue slot, also where its predicate switches it off.

slots and shared are ceilings in percent of the pipe's own peak (see MACHINES): what one issue a cycle and scheduler leaves, and
what 128 bytes of shared memory a cycle and multiprocessor leave. They know nothing of latencies, bank conflicts and traffic.
"""
import argparse, collections, concurrent.futures, json, os, re, shutil, struct, subprocess, sys

# For how many cycles an instruction keeps the pipe of a scheduler busy. mma is for m16n8k16 of 16 bits, 2,048 multiply-adds:
# mma.sync of an H100 reaches 62 % of the published 2,048 a cycle and multiprocessor; an A100 does 1,024, an RTX 4090 256.
# m16n8k8 of tf32 has half as many at half the rate.
MACHINES = {
    'sm_90': dict(mma=6.45, ffma=1.0),
    'sm_80': dict(mma=8.0, ffma=2.0),
    'sm_89': dict(mma=32.0, ffma=1.0),
}
INTEGER = {'IADD3', 'IMAD', 'LOP3', 'ISETP', 'SHF', 'LEA', 'VIADD', 'VIMNMX', 'VIADDMNMX', 'IABS', 'SEL', 'PRMT', 'PLOP3', 'P2R', 'R2P',
           'IMNMX', 'BMSK', 'POPC', 'FLO', 'I2F', 'F2I', 'I2I', 'LEPC', 'PSETP'}
MOVES = {'MOV', 'CS2R', 'S2R', 'S2UR', 'R2UR', 'LDC', 'B2R'}
BRANCHES = {'BRA', 'BRX', 'JMP', 'CALL', 'RET', 'EXIT', 'BSSY', 'BSYNC', 'BREAK', 'WARPSYNC', 'YIELD'}


class Instr:
    __slots__ = ('addr', 'pred', 'op', 'base', 'args', 'text', 'jumps')

    def __init__(self, addr, text):
        self.addr, self.text = addr, text
        m = re.match(r'(?:@(!?U?P\w+)\s+)?(\S+)\s*(.*)', text)
        self.pred, self.op, rest = m.group(1), m.group(2), m.group(3)
        self.base = self.op.split('.')[0]
        self.args = [a.strip() for a in split_args(rest)]

        # For some far jumps there is a call that nobody returns from: its label is one of the kernel's.
        self.jumps = self.base in ('BRA', 'JMP') or self.base == 'CALL' and '`(.L' in text

    def defs(self):
        """Registers and predicates it writes."""
        if self.base in ('STG', 'STS', 'ST', 'STL', 'LDGSTS', 'BRA', 'BAR', 'RED', 'DEPBAR', 'LDGDEPBAR', 'EXIT', 'NOP', 'BSSY', 'BSYNC',
                         'CALL', 'RET', 'WARPSYNC', 'BREAK', 'UTMALDG', 'SYNCS', 'ERRBAR', 'MEMBAR', 'CCTL', 'ISETP_'):
            return []
        out = []
        for i, a in enumerate(self.args[:2]):
            a = a.replace('.reuse', '')
            if re.fullmatch(r'U?P\d', a):
                if i == 0 or self.base in ('ISETP', 'FSETP', 'PLOP3', 'IADD3', 'LEA', 'UISETP', 'UPLOP3', 'PSETP', 'IMAD', 'UIADD3', 'ULEA',
                                           'DSETP', 'VIADDMNMX', 'R2P', 'FCHK'):
                    out.append(a)
            elif i == 0 and (m := re.fullmatch(r'(U?R)(\d+)', a)):
                n = 1
                if self.base in ('HMMA', 'IMMA'): n = 4
                elif self.base == 'LDSM': n = 4 if self.op.endswith('.4') else 2 if self.op.endswith('.2') else 1
                elif '128' in self.op.split('.'): n = 4
                elif '64' in self.op.split('.') or 'WIDE' in self.op.split('.') or (self.base == 'CS2R' and '32' not in self.op.split('.')): n = 2
                out += [m.group(1) + str(int(m.group(2)) + j) for j in range(n)]
            elif i == 0 and a in ('PT', 'UPT', 'RZ'):
                continue
            if i == 0 and not re.fullmatch(r'U?P[\dT]', a) and self.base not in ('IADD3', 'LEA', 'UIADD3', 'ULEA', 'IMAD'):
                break
        return out

    def sources(self):
        d = self.defs()
        text = ' '.join(self.args)
        names = re.findall(r'\b(U?R\d+|U?P\d)\b', text)
        for x in set(d):
            if x in names: names.remove(x)
        if self.pred: names.append(self.pred.lstrip('!'))
        return names


def split_args(rest):
    out, depth, now = [], 0, ''
    for c in rest:
        if c in '[(': depth += 1
        if c in '])': depth -= 1
        if c == ',' and depth == 0: out.append(now); now = ''
        else: now += c
    if now.strip(): out.append(now)
    return out


def kernels_of(text):
    """(name, instructions, labels) of each function with code."""
    parts = re.split(r'^\s*//-+ +\.text\.(\S+) +-+\s*$', text, flags=re.M)
    if len(parts) == 1:
        parts = re.split(r'^\.text\.([^\s:]+):', text, flags=re.M)
    if len(parts) == 1: parts = ['', 'code', text]
    for name, body in zip(parts[1::2], parts[2::2]):
        instrs, labels = [], {}
        for line in body.split('\n'):
            if m := re.match(r'\s*(\.L_x?_?\w+):', line): labels[m.group(1)] = len(instrs); continue
            if m := re.match(r'\s*/\*([0-9a-f]{4,})\*/\s+([@A-Z].*?)\s*;', line):
                instrs.append(Instr(int(m.group(1), 16), m.group(2)))
        if instrs: yield name, instrs, labels


class Graph:
    def __init__(self, instrs, labels):
        self.instrs = instrs
        leaders = {0} | {i for i in labels.values() if i < len(instrs)}
        for i, x in enumerate(instrs):
            if (x.jumps or x.base in ('BRX', 'EXIT', 'RET')) and i + 1 < len(instrs): leaders.add(i + 1)
        starts = sorted(leaders)
        self.blocks = [(a, b) for a, b in zip(starts, starts[1:] + [len(instrs)])]
        at = {a: n for n, (a, _) in enumerate(self.blocks)}
        by_addr = {x.addr: i for i, x in enumerate(instrs)}
        self.next, self.branch = [], []  # successors; the branch: (block if taken, block if not)
        for n, (a, b) in enumerate(self.blocks):
            x, after = instrs[b - 1], [n + 1] if n + 1 < len(self.blocks) else []
            fork = None
            if x.jumps:
                m = re.search(r'(\.L_\w+)', x.text)
                target = labels.get(m.group(1)) if m else None
                if target is None and (m := re.search(r'\b0x([0-9a-f]+)\s*$', x.text)): target = by_addr.get(int(m.group(1), 16))
                to = at.get(target)
                conditional = x.pred and x.pred not in ('PT',) or re.search(r'BRA\S*\s+!?U?[PR]\w*,', x.text)
                if 'DIV' in x.op.split('.'): to_list = after  # threads of a warp that went different ways: not the common case
                elif to is None: to_list = after if conditional else []
                elif conditional: to_list = [to] + after; fork = (to, after[0] if after else None)
                else: to_list = [to]
            elif x.base in ('BRX', 'RET'): to_list = after if x.pred else []
            elif x.base == 'EXIT': to_list = after if x.pred else []
            else: to_list = after
            self.next.append(list(dict.fromkeys(to_list)))
            self.branch.append(fork)
        self.before = collections.defaultdict(list)
        for n, to in enumerate(self.next):
            for t in to: self.before[t].append(n)

    def parts(self, nodes, without=()):
        """Strongly connected parts of a subgraph, edges into `without` left out; those that are loops."""
        nodes, order, low, index, stack, on, out = set(nodes), {}, {}, [0], [], set(), []
        succ = lambda n: [t for t in self.next[n] if t in nodes and t not in without]
        for root in sorted(nodes):
            if root in order: continue
            work = [(root, iter(succ(root)))]
            order[root] = low[root] = index[0]; index[0] += 1; stack.append(root); on.add(root)
            while work:
                n, it = work[-1]
                for t in it:
                    if t not in order:
                        order[t] = low[t] = index[0]; index[0] += 1; stack.append(t); on.add(t)
                        work.append((t, iter(succ(t)))); break
                    if t in on: low[n] = min(low[n], order[t])
                else:
                    work.pop()
                    if work: low[work[-1][0]] = min(low[work[-1][0]], low[n])
                    if low[n] == order[n]:
                        part = set()
                        while True:
                            t = stack.pop(); on.discard(t); part.add(t)
                            if t == n: break
                        if len(part) > 1 or n in self.next[n] and n not in without: out.append(part)
        return out

    def entries(self, part):
        heads = [n for n in part if any(p not in part for p in self.before[n])]
        return heads or [min(part)]

    def count(self, block):
        return tally(self.instrs[self.blocks[block][0]:self.blocks[block][1]])

    def code(self, part):
        for n in sorted(part): yield from self.instrs[self.blocks[n][0]:self.blocks[n][1]]


def kind(x):
    b = x.base
    if b == 'CALL' and x.jumps: return 'branch'
    if b in ('HMMA', 'IMMA', 'HGMMA', 'IGMMA', 'QGMMA', 'DMMA', 'BMMA'): return b
    if b.startswith('FFMA'): return 'FFMA'
    if b in ('LDSM', 'LDS', 'STS', 'LDG', 'LD', 'STG', 'LDGSTS', 'UTMALDG', 'LDL', 'STL', 'LDGDEPBAR', 'DEPBAR', 'BAR', 'SYNCS', 'WARPGROUP', 'CALL',
             'LDC', 'ULDC'): return b
    if b in BRANCHES: return 'branch'
    if b in INTEGER: return 'move' if x.op.startswith('IMAD.MOV') else 'int'
    if b in MOVES: return 'move'
    if b[0] == 'U' and b not in ('UTMALDG',): return 'uniform'
    if b in ('F2F', 'F2FP', 'FADD', 'FMUL', 'FSETP', 'FSEL', 'FMNMX', 'HADD2', 'HFMA2', 'HMUL2', 'MUFU', 'FCHK', 'FRND', 'HMNMX2', 'HSETP2', 'HSET2'): return 'float'
    return 'other'


def fma(x):
    """Multiply-adds of one matrix instruction on one warp, as if of 16 bits: tf32 has half the rate."""
    if m := re.search(r'\.(\d+)x(\d+)x(\d+)', x.op): return int(m.group(1)) * int(m.group(2)) * int(m.group(3)) / 4
    return {'16816': 2048, '1688': 2048 if 'TF32' in x.op else 1024, '1684': 1024, '16832': 2048}.get(x.op.split('.')[1] if '.' in x.op else '', 2048)


def wide(x):
    p = x.op.split('.')
    if x.base == 'LDSM': return 512 if p[-1] == '4' else 256 if p[-1] == '2' else 128
    return 512 if '128' in p else 256 if '64' in p else 32 if 'U8' in p or 'S8' in p else 64 if 'U16' in p or 'S16' in p or '16' in p else 128


def tally(instrs):
    c = collections.Counter()
    for x in instrs:
        c['all'] += 1
        k = kind(x)
        c[k] += 1
        if k in ('LDSM', 'LDS') and x.pred != '!PT': c['read'] += wide(x)
        if k in ('STS', 'LDGSTS'): c['written'] += wide(x)
        if x.base == 'ISETP': c['isetp'] += 1
        if k in ('HMMA', 'IMMA', 'HGMMA', 'QGMMA', 'IGMMA', 'DMMA'): c['fma'] += fma(x)
        if x.op.startswith('IMAD.HI'): c['divide'] += 1
        if x.op.startswith('F2F') and 'TF32' in x.op: c['cvt_tf32'] += 1
    c['mma'] = sum(c[k] for k in ('HMMA', 'IMMA', 'HGMMA', 'QGMMA', 'IGMMA', 'DMMA'))
    c['async'] = c['LDGSTS'] + c['UTMALDG']
    return c


class Conditions:
    """Which branches of a loop depend on parameters alone, and which of those on the same."""
    THREAD = ('S2R', 'S2UR', 'LDG', 'LDS', 'LD', 'LDL', 'LDSM', 'VOTE', 'VOTEU', 'SHFL', 'HMMA', 'ATOM', 'ATOMG', 'B2R', 'R2P', 'MUFU', 'REDUX', 'MATCH')

    def __init__(self, graph, part):
        self.g, self.part = graph, part
        self.defs = [x.defs() for x in graph.instrs]
        self.block_of = {i: n for n, (a, b) in enumerate(graph.blocks) for i in range(a, b)}
        self.inside = {d for n in part for i in range(*graph.blocks[n]) for d in self.defs[i]}
        self.memo, self.marks = {}, {}

    def reaching(self, name, i):
        """All definitions that reach instruction i."""
        found, seen, work = set(), set(), [(self.block_of[i], i)]
        while work:
            n, end = work.pop()
            for j in range(end - 1, self.g.blocks[n][0] - 1, -1):
                if name in self.defs[j]: found.add(j); break
            else:
                for p in self.g.before[n]:
                    if p not in seen: seen.add(p); work.append((p, self.g.blocks[p][1]))
        return found

    def of_thread(self, name, i, depth=0):
        """Whether its value there comes from a thread's or block's number, or from memory."""
        if depth > 40: return True
        for j in self.reaching(name, i):
            if j in self.marks:
                if self.marks[j]: return True
                continue
            self.marks[j] = False  # a circle adds nothing
            x = self.g.instrs[j]
            self.marks[j] = x.base in self.THREAD or any(self.of_thread(s, j, depth + 1) for s in x.sources())
            if self.marks[j]: return True
        return False

    def value(self, name, i, depth=0):
        """A name for the number that a register holds there, made of parameters and constants; None where it is not that."""
        if depth > 12: return None
        found = self.reaching(name, i)
        if len(found) == 1:
            j, = found
            if (name, j) in self.memo: return self.memo[name, j]
            self.memo[name, j] = None
            x = self.g.instrs[j]
            if not (x.base in self.THREAD or x.pred and x.pred != 'PT'):
                n = self.defs[j].index(name)
                text = ','.join(x.args[1:])
                for s in dict.fromkeys(x.sources()):
                    v = self.value(s, j, depth + 1)
                    if v is None: break
                    text = re.sub(r'\b%s\b' % s, lambda _: v, text)
                else:
                    plain = x.base in ('LDC', 'ULDC', 'MOV', 'UMOV', 'R2UR') or x.op in ('IMAD.U32', 'IMAD.MOV.U32', 'IMAD.MOV')
                    key = (text.replace('RZ,RZ,', '') + ('+4' if n else '')) if plain else f'{x.op}{n}({text})'
                    self.memo[name, j] = key
                    return key
        if name not in self.inside and not self.of_thread(name, i): return name
        return None

    def truth(self, name, i, depth=0):
        """A predicate there as an expression over equalities of parameters; None where a thread, k or memory has a say."""
        name = name.strip()
        if name.startswith('!'):
            e = self.truth(name[1:], i, depth)
            return None if e is None else ('not', e)
        if name in ('PT', 'UPT'): return True
        if depth > 12: return None
        found = self.reaching(name, i)
        if len(found) == 1:
            j, = found
            x = self.g.instrs[j]
            e = self.defined(x, j, name, depth) if not (x.pred and x.pred != 'PT') and x.base not in self.THREAD else None
            if e is not None: return e
        if name not in self.inside and not self.of_thread(name, i): return ('atom', name)
        return None

    def defined(self, x, j, name, depth):
        second = len(self.defs[j]) > 1 and self.defs[j].index(name) == 1
        if x.base in ('ISETP', 'UISETP') and not second:
            parts, a, b = x.op.split('.'), x.args[2].replace('.reuse', ''), x.args[3].replace('.reuse', '')
            if 'EX' in parts:  # of 64 bits: the lower half stands for all
                e = self.truth(x.args[5], j, depth + 1)
            else:
                numbers = []
                for n in (a, b):
                    if re.fullmatch(r'U?R\d+', n): n = self.value(n, j)
                    elif 'R' in n.replace('RZ', ''): n = None
                    if n is None: return None
                    numbers.append('0' if n in ('RZ', 'URZ') else n)
                if parts[1] in ('EQ', 'NE'):
                    e = ('atom', '%s==%s' % tuple(sorted(numbers, reverse=True)))
                    if parts[1] == 'NE': e = ('not', e)
                else: e = ('atom', '%s %s %s' % (numbers[0], parts[1], numbers[1]))
            other = self.truth(x.args[4], j, depth + 1)
            if e is None or other is None: return None
            return ('or' if 'OR' in parts else 'and', e, other)
        if x.base in ('PLOP3', 'UPLOP3') and len(x.args) >= 6 and not second:
            three = [self.truth(n, j, depth + 1) for n in x.args[2:5]]
            lut = int(x.args[5], 16)
            needed = [any((lut >> k & 1) != (lut >> (k ^ 1 << 2 - n) & 1) for k in range(8)) for n in range(3)]
            if any(e is None and need for e, need in zip(three, needed)): return None
            return ('lut', lut, *[False if e is None else e for e in three])
        if x.base in ('LOP3', 'ULOP3') and x.args[0] == name:
            v = [self.value(n.replace('.reuse', ''), j) if re.match(r'U?R\d', n) else n for n in x.args[2:5]]
            return None if None in v else ('atom', x.op + ','.join(v) + x.args[5])
        return None

    def of(self, block):
        """The expression on which a block's branch is taken."""
        i = self.g.blocks[block][1] - 1
        x = self.g.instrs[i]
        names = ([x.pred] if x.pred else []) + re.findall(r'BRA\S*\s+(!?U?P\d),', x.text)
        e = True
        for n in names:
            t = self.truth(n, i)
            if t is None: return None
            e = ('and', e, t)
        return e if names else None


def atoms(e):
    if e in (True, False): return
    if e[0] == 'atom': yield e[1]
    else:
        for part in e[1:]:
            if not isinstance(part, int) or isinstance(part, bool): yield from atoms(part)


def holds(e, verdict):
    if e is True or e is False: return e
    if e[0] == 'atom': return verdict[e[1]]
    if e[0] == 'not': return not holds(e[1], verdict)
    if e[0] == 'and': return holds(e[1], verdict) and holds(e[2], verdict)
    if e[0] == 'or': return holds(e[1], verdict) or holds(e[2], verdict)
    return bool(e[1] >> (holds(e[2], verdict) * 4 + holds(e[3], verdict) * 2 + holds(e[4], verdict)) & 1)


def scaled(c, n):
    return collections.Counter({k: v * n for k, v in c.items()})


def trips_of(graph, part):
    """Of a counted loop with constant ends."""
    code = list(graph.code(part))
    for x in reversed(code):
        if x.base in ('ISETP', 'UISETP') and (m := re.fullmatch(r'-?0x[0-9a-f]+', x.args[3] if len(x.args) > 3 else '')):
            counter, bound = x.args[2].replace('.reuse', ''), int(x.args[3], 16)
            step = None
            for y in code:
                if y.base in ('VIADD', 'IADD3', 'UIADD3') and y.args[0] == counter:
                    for a in y.args[1:]:
                        if re.fullmatch(r'-?0x[0-9a-f]+', a): step = int(a, 16)
            if not step: continue
            if step > 0x7fffffff: step -= 1 << 32
            first = graph.blocks[min(part)][0]
            for y in reversed(graph.instrs[max(0, first - 400):first]):
                if counter in y.defs():
                    if y.base == 'HFMA2' and len(y.args) == 5:  # two halves as the bits of a number
                        low, high = (struct.unpack('<H', struct.pack('<e', float(a)))[0] for a in (y.args[4], y.args[3]))
                        start = high << 16 | low
                    elif y.base == 'CS2R' or 'RZ' == y.args[-1] or y.args[-1] in ('URZ',): start = 0
                    elif re.fullmatch(r'-?0x[0-9a-f]+', y.args[-1]): start = int(y.args[-1], 16)
                    else: break
                    n = (bound - start) / step
                    if n > 0 and n == int(n): return int(n)
                    break
    return None


def best_path(graph, part, head, key, verdict, trips, weight):
    """Through one turn, the path with the greatest weight; `verdict` says what a parameter's choice is."""
    inner = graph.parts(part, without=(head,))
    of = {n: p for p in map(frozenset, inner) for n in p}
    memo = {}
    sys.setrecursionlimit(20000)

    def node_count(p):
        c = collections.Counter()
        total = tally(graph.code(p))
        if total['mma'] or total['FFMA'] >= 32:
            n = trips(p)
            h = graph.entries(p)[0]
            c = scaled(best_path(graph, p, h, key, verdict, trips, weight)[1], n)
        else:
            c = collections.Counter(total); c['rolled'] += 1; c['LDG'] = 0  # its trips are not known
        return c

    def visit(n):
        """(weight, counts) from n to the end of the turn; None: there is no way back."""
        if n in memo: return memo[n]
        memo[n] = None
        p = of.get(n)
        if p:
            c = node_count(p)
            ways = [t for m in p for t in graph.next[m] if t not in p]
        else:
            c = graph.count(n)
            ways = list(graph.next[n])
            k = key.get(n)
            if k is not None and graph.branch[n] and all(a in verdict for a in atoms(k)):
                ways = [graph.branch[n][0 if holds(k, verdict) else 1]]
        options = []
        for t in ways:
            if t == head: options.append(collections.Counter())
            elif t in part and (r := visit(t)) is not None: options.append(r[1])
        if options:
            most = max(options, key=weight)
            total = c + most
            memo[n] = (weight(total), total)
        return memo[n]

    return visit(head)


def analyse(name, instrs, labels, trips_if_unknown=None):
    """Its steady loops, the leanest first."""
    graph = Graph(instrs, labels)
    loops = []

    def collect(nodes, depth, without=()):
        for p in graph.parts(nodes, without):
            loops.append((depth, p))
            collect(p, depth + 1, tuple(graph.entries(p)))
    collect(range(len(graph.blocks)), 0)
    tallies = [(p, tally(graph.code(p))) for _, p in loops]
    unit = 'mma' if any(t['mma'] for _, t in tallies) else 'FFMA'
    fills = lambda t: t['async'] or t['STS'] or t['BAR'] or t['SYNCS'] or t['HGMMA']
    good = [(p, t) for p, t in tallies if t[unit] >= (1 if unit == 'mma' else 32) and fills(t)]
    # A persistent kernel has a loop around the innermost one.
    good = [(p, t) for p, t in good if not any(q < p for q, _ in good)]
    most = max((t[unit] for _, t in good), default=0)
    found = [steady(graph, p, t, unit, name, instrs, trips_if_unknown) for p, t in good if 2 * t[unit] >= most]
    return sorted((r for r in found if r), key=lambda r: (r['lean']['all'] / r['lean'][unit], -r['lean']['LDGSTS']))


def steady(graph, part, static, unit, name, instrs, trips_if_unknown):
    """The lean and the rich path of a loop."""
    head = graph.entries(part)[0]
    conditions = Conditions(graph, part)
    key = {n: k for n in part if graph.branch[n] and (k := conditions.of(n)) is not None}
    uses = collections.Counter(a for k in key.values() for a in set(atoms(k)))
    names = sorted(uses, key=lambda name: (-uses[name], name))[:13]
    guessed = []

    def trips(p):
        n = trips_of(graph, p)
        if n is None: n = trips_if_unknown or 1; guessed.append(n)
        return n

    # Where a way is free: the one that loads, then the longer one, but neither calls nor loops of unknown length.
    weight = lambda c: (c[unit], c['async'], c['LDG'], -c['CALL'], -c['rolled'], c['all'])
    found = []
    for bits in range(1 << len(names)):
        verdict = {v: bool(bits >> i & 1) for i, v in enumerate(names)}
        equal = [v.split('==')[0] for v in names if verdict[v] and '==' in v]
        if len(equal) != len(set(equal)): continue  # one number is not two
        r = best_path(graph, part, head, key, verdict, trips, weight)
        if r: found.append((r[1], verdict))
    if not found: return None
    full = max(c[unit] for c, _ in found)
    found = [x for x in found if x[0][unit] >= 0.9 * full]  # a scale is an FFMA too
    clean = [x for x in found if not x[0]['CALL'] and not x[0]['rolled']] or found
    copied = max(c['async'] for c, _ in clean)
    lean = min((x for x in clean if x[0]['async'] == copied), key=lambda x: x[0]['all'])
    rich = max(clean, key=lambda x: x[0]['all'])
    return dict(name=name, unit=unit, lean=lean[0], rich=rich[0], static=static, choices=len(names), guessed=bool(guessed), lean_choice=lean[1],
                address=[instrs[graph.blocks[min(part)][0]].addr, instrs[graph.blocks[max(part)][1] - 1].addr], whole=len(instrs), part=part, graph=graph)


def disassemble(path):
    tool = os.environ.get('NVDISASM') or shutil.which('nvdisasm') or 'nvdisasm'
    return subprocess.run([tool, '-c', path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True).stdout


def row_of(r, machine):
    """What is printed of a loop."""
    row = dict(kernel=r['name'], unit={'mma': 'HMMA', 'FFMA': 'FFMA'}[r['unit']], static=r['static']['all'], whole=r['whole'], guessed=r['guessed'])
    for which in ('lean', 'rich'):
        c = r[which]
        mma, issued = c[r['unit']], c['all']
        # HGMMA runs at the full rate: twice 1,024 multiply-adds a cycle and multiprocessor.
        busy = c['fma'] / mma / 512 if c['HGMMA'] else machine['mma'] * c['fma'] / mma / 2048 if r['unit'] == 'mma' else machine['ffma']
        row[which] = dict(mma=mma, issued=issued, per=round(issued / mma, 2), slots=round(min(1, busy * mma / issued) * 100),
                          shared=round(min(1, busy / 4 * 128 / ((c['read'] + c['written']) / mma)) * 100) if r['unit'] == 'mma' and c['read'] else None,
                          **{k: c[k] for k in ('LDSM', 'LDS', 'LDGSTS', 'UTMALDG', 'LDG', 'STS', 'int', 'uniform', 'move', 'float', 'branch', 'BAR', 'DEPBAR',
                                               'LDGDEPBAR', 'divide', 'CALL', 'rolled', 'read', 'written', 'HGMMA')},
                          other=c['other'] + c['LDC'] + c['ULDC'] + c['SYNCS'] + c['WARPGROUP'])
    return row


def rows_of(text, arch, name_filter='.', trips=None, verbose=False):
    rows = []
    for name, instrs, labels in kernels_of(text):
        if not re.search(name_filter, name): continue
        for r in analyse(name, instrs, labels, trips):
            rows.append(row_of(r, MACHINES.get(arch, MACHINES['sm_90'])))
            if verbose:
                print(name, 'loop %x..%x' % tuple(r['address']), r['choices'], 'choices')
                print('  lean', dict(r['lean'])); print('  rich', dict(r['rich']))
                for v, b in r['lean_choice'].items(): print('    ', b, v[:150])
    return rows


# What zgan calls these counts.
SAME = dict(issued='issued', LDSM='ldsm', LDS='lds', LDGSTS='ldgsts', LDG='ldg', STS='sts', int='integer', uniform='uniform', move='moves',
            float='float', BAR='barriers', divide='divisions')


def of_module(zgan, module, arch):
    """The loops of the kernels in a file, by kernel."""
    text = subprocess.run([zgan, 'kernels', '--sass', module, '--arch', arch], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = collections.defaultdict(list)
    for row in rows_of(text, arch): found[row['kernel']].append(row)
    return found


def compare(zgan):
    """Whether zgan counts the same on the lean path of every steady loop, and as many instructions on the rich one."""
    jobs, theirs = [], {}
    for arch in ('sm_80', 'sm_90'):
        out = subprocess.run([zgan, 'kernels', '--loops', '--json', '--arch', arch], stdout=subprocess.PIPE, text=True, check=True).stdout
        theirs[arch] = json.loads(out)
        jobs += [(zgan, module, arch) for module in sorted({code['module'] for code in theirs[arch]})]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        ours = dict(zip(((module, arch) for _, module, arch in jobs), pool.map(of_module, *zip(*jobs))))
    wrong = loops = 0
    for arch, kernels in theirs.items():
        for code in kernels:
            here = ours[code['module'], arch].get(code['kernel'], [])
            if len(here) != len(code['loops']): print(f"{code['kernel']} for {arch}: {len(here)} loops here, {len(code['loops'])} in zgan"); wrong += 1
            products = lambda loop: loop['lean']['mma' if loop['multiplier'] == 'HMMA' else 'ffma']
            for row, loop in zip(here, sorted(code['loops'], key=lambda loop: (loop['lean']['issued'] / products(loop), -loop['lean']['ldgsts']))):
                loops += 1
                a, b = row['lean'], loop['lean']
                pairs = {k: (a[k], b[v]) for k, v in SAME.items()}
                pairs['MMA'] = a['mma'], products(loop)
                pairs['branch'] = a['branch'] + a['CALL'], b['branches']
                pairs['rich'] = row['rich']['issued'], loop['rich']['issued']
                pairs['shared'] = a['read'] + a['written'], b['shared']
                different = [f'{k} {x} here, {y} in zgan' for k, (x, y) in pairs.items() if x != y]
                if different: print(f"{code['kernel']} for {arch}, {loop['name']}: {', '.join(different)}"); wrong += 1
    print(f'{loops} steady loops of {sum(map(len, theirs.values()))} kernels counted twice, {wrong} of them differently')
    return wrong == 0 and loops > 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument('file', nargs='?'); p.add_argument('filter', nargs='?', default='.')
    p.add_argument('--arch'); p.add_argument('--json', action='store_true'); p.add_argument('--verbose', action='store_true')
    p.add_argument('--trips', type=int, help='how often an inner loop is passed whose ends are no constants')
    p.add_argument('--zgan', help='compare with what this program counts')
    option = p.parse_args()
    if option.zgan: sys.exit(0 if compare(option.zgan) else 1)
    if not option.file: p.error('a FILE, or --zgan')
    is_elf = open(option.file, 'rb').read(4) == b'\x7fELF'
    text = disassemble(option.file) if is_elf else open(option.file).read()
    arch = option.arch or (m.group(0)[:5] if (m := re.search(r'sm_\d\d', os.path.basename(option.file))) else 'sm_90')
    rows = rows_of(text, arch, option.filter, option.trips, option.verbose)
    if option.json: print(json.dumps(rows, indent=1)); return
    print(f'{"kernel":44} {"unit":4} {"MMA":>4} {"issued":>6} {"per":>6} {"rich":>6} {"LDSM":>4} {"LDS":>4} {"LDGSTS":>6} {"LDG":>4} {"STS":>4} {"int":>5} {"unif":>4} {"move":>4} '
          f'{"float":>5} {"bra":>4} {"bar":>3} {"oth":>4} {"slots%":>6} {"smem%":>5}')
    for r in rows:
        l = r['lean']
        print(f'{r["kernel"]:44} {"HGMM" if l["HGMMA"] else r["unit"]:4} {l["mma"]:4} {l["issued"]:6} {l["per"]:6} {r["rich"]["per"]:6} {l["LDSM"]:4} {l["LDS"]:4} '
              f'{l["LDGSTS"] + l["UTMALDG"]:6} {l["LDG"]:4} {l["STS"]:4} {l["int"]:5} {l["uniform"]:4} {l["move"]:4} {l["float"]:5} {l["branch"] + l["CALL"]:4} {l["BAR"]:3} '
              f'{l["other"] + l["DEPBAR"] + l["LDGDEPBAR"]:4} {l["slots"]:6} {l["shared"] if l["shared"] is not None else "-":>5}{" trips?" if r["guessed"] else ""}')


if __name__ == '__main__': main()
