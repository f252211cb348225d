'use strict'
// A worker for KQS: node worker.js HOST PORT. Runs up to ROOM jobs at a time.
// Put types of your own into `handlers`; the rest keeps the rules of docs/write-a-client.md.
const net = require('node:net'), { setTimeout: after } = require('node:timers/promises')
const [host, port] = process.argv.slice(2), ROOM = 4
// each returns the result or throws the reason of a failure; `signal` tells that nobody wants either any more
const handlers = {
    echo: async (data) => data,
    sleep: (data, signal) => after(data.s * 1000, null, { signal }),
    fail: async (data) => { throw new Error(data.reason) },
}
const finite = (_, value) => { if (typeof value === 'number' && !isFinite(value)) throw new Error(`JSON has no ${value}`); return value }
const LATER = new Set(['busy', 'draining', 'no_space', 'journal_failed', 'internal'])
const calls = new Map() // id -> what to do with the answer to a call
const runs = new Map() // token -> what stops a run in hand
const reports = new Map() // token -> a report that was not answered yet
let socket, number = 0, pauseMs = 100, workId = 0, reporting = 0, stopping = false

function call(name, arg, answered = () => {}) {
    socket.write(JSON.stringify({ id: ++number, n: name, m: arg }) + '\n')
    return calls.set(number, answered) && number
}

// longer each time, up to 5 s, until the server has done something for us again
const pause = () => (pauseMs = Math.min(2 * pauseMs, 5000)) * (0.25 + Math.random() / 4)

function ask() { // `work` ends when the server stops or is full: runs in hand go on, and we ask again later
    if (stopping || workId || socket.readyState !== 'open') return
    const asked = { types: Object.keys(handlers), room: ROOM, worker: `node-${process.pid}` }
    workId = call('work', asked, () => { workId = 0; setTimeout(ask, pause()) })
}

async function run({ run: token, type, data, ttr }) {
    if (stopping) return call('release', { run: token, begun: false })
    const stop = runs.set(token, new AbortController()).get(token)
    const touching = setInterval(call, ttr * 1000 / 3, 'touch', { run: token }, ({ e, m }) => (e?.code === 'stale' || m?.cancel) && stop.abort())
    const end = await Promise.resolve().then(() => handlers[type](data, stop.signal))
        .then((result = null) => JSON.stringify(result, finite) && { report: 'ok', result }) // or throws: JSON has no such value
        .catch((why) => ({ report: 'fail', reason: Buffer.from(String(why?.message ?? why)).toString() })) // half a character is no text
    clearInterval(touching), runs.delete(token)
    stop.signal.aborted ? leave() : report(reports.set(token, { run: token, ...end }))
}

function report() { // one at a time, so that an error without an id means this one; until it is taken: to repeat it is safe
    const [one] = reports.values(), again = (id) => stopping && pauseMs >= 5000 ? socket.end() : id === reporting && report(reporting = 0)
    if (!one || reporting || socket.readyState !== 'open') return
    reporting = call('finish', one, ({ e }) => {
        if (LATER.has(e?.code)) return setTimeout(again, pause(), reporting)
        reports.delete(one.run)
        if (e && e.code !== 'stale' && one.report !== 'fail') reports.set(one.run, { run: one.run, report: 'fail', reason: e.code })
        report(reporting = 0)
    })
}

function hear({ id = reporting, s, m, e }) {
    if (s !== 'err') pauseMs = 100
    if (s === 'ok') return m.cancel ? runs.get(m.cancel)?.abort() : m.forEach(run)
    calls.get(id)?.({ m, e }), calls.delete(id) && leave()
}
function leave() { if (stopping && !calls.size && !runs.size && !reports.size) socket.end() }

function connect() {
    let rest = ''
    socket = net.connect(port, host, () => { report(reporting = 0); ask(); leave() }).setEncoding('utf8')
    socket.on('error', () => {}).on('data', (text) => {
        const lines = (rest + text).split('\n')
        rest = lines.pop() // what has no newline yet is no line
        lines.map((line) => JSON.parse(line)).forEach(hear)
    })
    socket.on('close', () => {
        workId = 0, calls.clear(), runs.forEach((stop) => stop.abort()) // lost with the connection
        if (!stopping || (reports.size && pauseMs < 5000)) return setTimeout(connect, pause())
        reports.size && console.error('nobody takes the reports of', ...reports.keys())
        process.exit(reports.size && 1)
    })
}

process.on('SIGTERM', () => { stopping = true; workId ? call('withdraw', { call: workId }) : leave() })
connect()
