'use strict'
// A producer for KQS: node producer.js HOST PORT TYPE. Each line of stdin is the data of a job, as JSON.
// Prints the id of each that is kept, or `refused: CODE`. Has up to MOST inserts without an answer at a time.
const net = require('node:net')
const { randomUUID } = require('node:crypto')
const { setTimeout: after } = require('node:timers/promises')

const [host, port, type] = process.argv.slice(2)
const MOST = 1000
const LATER = new Set(['busy', 'draining', 'no_space', 'journal_failed', 'internal']) // may well be kept when tried again
const jobs = new Map() // id -> a job whose insert was not answered yet; sent again until it is, which its own id makes safe
const ABOUT_A_LINE = new Set(['bad_json', 'too_large'])
let socket, pauseMs = 100, ended = false, alone = false

function pause() { // longer each time, up to 5 s, until the server has kept a job again
    pauseMs = Math.min(2 * pauseMs, 5000)
    return pauseMs * (0.25 + Math.random() / 4)
}

const first = () => jobs.keys().next().value

function insert(id) {
    if (socket.readyState !== 'open' || !jobs.has(id) || (alone && id !== first())) return
    socket.write(`{"id":"${id}","n":"insert","m":${jobs.get(id)}}\n`)
}

function hear({ id, e }) {
    const wasAlone = alone
    if (socket.destroyed) return
    if (!id && ABOUT_A_LINE.has(e.code)) { // which is not said: each goes alone, until it is found
        if (!alone) {
            alone = true
            return socket.destroy()
        }
        id = first()
        alone = false
    }
    if (!jobs.has(id)) return // an error without an id is about the connection, which ends
    if (e && LATER.has(e.code)) return setTimeout(insert, pause(), id)
    if (e) process.exitCode = 1
    else pauseMs = 100
    jobs.delete(id)
    console.log(e ? `refused: ${e.code}` : id)
    if (wasAlone) [...jobs.keys()].forEach(insert)
    leave()
}

function leave() { if (ended && !jobs.size) socket.destroy() }

function connect() {
    let rest = '' // what has no newline yet is no line
    socket = net.connect(port, host, () => { [...jobs.keys()].forEach(insert); leave() }).setEncoding('utf8')
    socket.on('data', (text) => {
        const lines = (rest + text).split('\n')
        rest = lines.pop()
        lines.map((line) => JSON.parse(line)).forEach(hear)
    })
    socket.on('error', () => {})
    socket.on('close', () => { if (!ended || jobs.size) setTimeout(connect, pause()) })
}

async function main() {
    connect()
    for await (const line of require('node:readline').createInterface({ input: process.stdin })) {
        if (!line.trim()) continue
        const id = randomUUID()
        try { JSON.parse(line) } catch {
            console.log('refused: bad_json')
            process.exitCode = 1
            continue
        } // the line goes as it stands, for not every number is one of Node's
        jobs.set(id, `{"type":${JSON.stringify(type)},"id":"${id}","data":${line}}`)
        insert(id)
        while (jobs.size >= MOST) await after(10)
    }
    ended = true
    leave()
}
main()
