// The play page: sends what the persons hold sixty times a second, and draws the frames that come back.
"use strict";

const LOOK = JSON.parse(document.getElementById("film").textContent).look;
const ASPECT = JSON.parse(document.getElementById("film").textContent).aspect;
const PAD_HEIGHT = 58, OTHER_HEIGHT = 395;
const el = (id) => document.getElementById(id);
const KEYBOARDS = [
  {
    right: "KeyD", left: "KeyA", up: "KeyW", down: "KeyS", half: "ShiftLeft",
    c: { right: "KeyH", left: "KeyF", up: "KeyT", down: "KeyG" },
    buttons: { KeyJ: "A", KeyK: "B", KeyL: "X", KeyU: "Z", KeyI: "R", KeyO: "D_UP" },
  },
  {
    right: "ArrowRight", left: "ArrowLeft", up: "ArrowUp", down: "ArrowDown", half: "ShiftRight", c: {},
    buttons: { Numpad1: "A", Numpad2: "B", Numpad3: "X", Numpad4: "Z", Numpad5: "R", Numpad0: "D_UP" },
  },
];
const GAMEPAD_BUTTONS = { 0: "A", 1: "B", 2: "X", 3: "Y", 4: "Z", 5: "Z", 6: "L", 7: "R", 12: "D_UP" };
const HALF_TILT = 0.55, TRIGGER_CLICK = 0.95;
const state = { paused: true, start: null, frame: null, rate: 0, step: 0, latency: 0, drawn: 0, error: "", open: false };
window.playState = state;
const keys = new Set();
let socket = null;

function readKeyboard(board) {
  const axis = (more, less) => keys.has(more) - keys.has(less);
  const tilt = keys.has(board.half) ? HALF_TILT : 1;
  return {
    axes: [tilt * axis(board.right, board.left), tilt * axis(board.up, board.down),
      axis(board.c.right, board.c.left), axis(board.c.up, board.c.down)],
    shoulder: 0,
    down: Object.keys(board.buttons).filter((key) => keys.has(key)).map((key) => board.buttons[key]),
  };
}

// What a player holds: the gamepad where there is one, and the keyboard besides.
function readPad(player) {
  const pad = readKeyboard(KEYBOARDS[player]);
  const device = [...(navigator.getGamepads ? navigator.getGamepads() : [])].filter(Boolean)[player];
  if (!device) return pad;
  const axes = [device.axes[0], -device.axes[1], device.axes[2] || 0, -(device.axes[3] || 0)];
  pad.axes = pad.axes.map((value, place) => value || axes[place]);
  const value = (button) => (device.buttons[button] ? device.buttons[button].value : 0);
  pad.shoulder = Math.max(value(6), value(7));
  for (const button in GAMEPAD_BUTTONS) {
    const isTrigger = button === "6" || button === "7";
    if (value(button) > (isTrigger ? TRIGGER_CLICK : 0.5)) pad.down.push(GAMEPAD_BUTTONS[button]);
  }
  pad.down = [...new Set(pad.down)];
  return pad;
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

const sendPads = () => send({ type: "pads", pads: [readPad(0), readPad(1)], sent: performance.now() });

function connect() {
  socket = new WebSocket(`ws://${location.host}/play`);
  socket.onopen = () => { state.open = true; say(""); };
  socket.onmessage = (event) => receive(JSON.parse(event.data));
  socket.onclose = () => {
    state.open = false;
    pause(true);
    if (!state.gone) { say("the server is gone; trying again"); setTimeout(connect, 1000); }
  };
}

function receive(message) {
  if (message.type === "frame") {
    Object.assign(state, { frame: message, rate: message.rate, step: message.step, isNew: true });
  } else if (message.type === "games") listGames(message.games);
  else if (message.type === "start") showStart(message);
  else if (message.type === "gone") { state.gone = true; say(message.text); }
  else {
    say(message.text, message.type === "error");
    if (message.type === "error") pause(true);
  }
}

function listGames(games) {
  state.games = games;
  const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
  el("game").replaceChildren(...games.map((game, place) => option(place, game.name)));
  el("rival").replaceChildren(
    option("own", "the inputs recorded there"), option("person", "a second person"),
    ...games.map((game, place) => option(place, `inputs of ${game.name}`)),
  );
}

function showStart(start) {
  state.start = start;
  el("game").value = start.game;
  el("frame").value = start.frame;
  el("frame").max = state.games[start.game].frames - 1;
  el("rival").value = start.rival === null ? "person" : start.rival === start.game ? "own" : start.rival;
  start.characters.forEach((name, player) => (el(`player${player}`).querySelector("h2").textContent = `P${player + 1}  ${name}`));
  pause(true);
}

function say(text, isError = false) {
  state.error = isError ? text : "";
  el("told").textContent = text;
  el("told").classList.toggle("off", isError);
}

function pause(on) {
  state.paused = on;
  el("pause").textContent = on ? (state.frame && state.frame.played ? "go on" : "begin") : "pause";
  send({ type: "pause", paused: on });
}

function restart() {
  const rival = el("rival").value, game = Number(el("game").value);
  say("");
  send({ type: "restart", game, frame: Number(el("frame").value), rival: rival === "person" ? null : rival === "own" ? game : Number(rival) });
}

function draw() {
  const frame = state.frame, start = state.start;
  if (!frame || !start) return;
  const height = Math.max(240, Math.min(620, window.innerHeight - OTHER_HEIGHT));
  const [ctx, width] = fitCanvas(el("scene"), height);
  const view = [frame.view[0], frame.view[1], Math.max(frame.view[2], (frame.view[2] / ASPECT) * (width / height))];
  drawScene(ctx, { x: 0, y: 0, w: width, h: height }, {
    stage: start.stage, platforms: frame.platforms, view, players: frame.players,
    title: state.paused ? "paused" : "", note: [noteRival(frame, start), start.note].filter(Boolean).join(" · "),
  });
  frame.players.forEach((player, number) => {
    const card = el(`player${number}`), cells = card.querySelector("tr").children;
    cells[1].textContent = `${Math.round(player.percent)} %`;
    cells[2].textContent = "●".repeat(Math.max(0, Math.round(player.stocks))) || "0";
    cells[3].textContent = player.action;
    const [pad, wide] = fitCanvas(card.querySelector("canvas"), PAD_HEIGHT);
    drawPad(pad, { x: 0, y: 0, w: wide, h: PAD_HEIGHT }, frame.pads[number], LOOK.colors.players[number]);
  });
  if (state.isNew && frame.sent) state.latency += 0.1 * (performance.now() - frame.sent - state.latency);
  state.isNew = false;
  el("rate").textContent = state.paused ? "–" : state.rate.toFixed(1);
  el("step").textContent = state.step.toFixed(1);
  el("latency").textContent = state.paused ? "–" : state.latency.toFixed(0);
  el("played").textContent = frame.played;
  state.drawn += 1;
}

function noteRival(frame, start) {
  if (start.rival === null) return "P2: a second person";
  return frame.left ? `P2: recorded inputs, ${(frame.left / 60).toFixed(0)} s left` : "P2: the recorded inputs have ended";
}

function isTyping() {
  return ["INPUT", "SELECT"].includes(document.activeElement.tagName);
}

const SHORTCUTS = { Space: () => pause(!state.paused), Enter: restart, F2: () => send({ type: "save" }) };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" || !isTyping()) {
    const act = SHORTCUTS[event.key === "Enter" ? "Enter" : event.code];
    if (event.key === "Enter") document.activeElement.blur();
    if (act && !event.repeat) act();
    keys.add(event.code);
    if (!/^F\d+$/.test(event.code) || event.code === "F2") event.preventDefault();
    sendPads();
  }
});
document.addEventListener("keyup", (event) => { keys.delete(event.code); sendPads(); });
window.addEventListener("blur", () => keys.clear());
document.addEventListener("visibilitychange", () => document.hidden && pause(true));
for (const button of document.querySelectorAll("button")) button.addEventListener("click", () => button.blur());
el("pause").onclick = SHORTCUTS.Space;
el("restart").onclick = restart;
el("save").onclick = SHORTCUTS.F2;
el("rival").onchange = el("game").onchange = () => { restart(); document.activeElement.blur(); };
el("frame").onchange = restart;
window.addEventListener("resize", draw);

function tick() {
  if (!state.paused) sendPads();
  draw();
  requestAnimationFrame(tick);
}

connect();
requestAnimationFrame(tick);
