// The film's page: play, scrub and step through rollouts beside the truth.
"use strict";

const FILM = JSON.parse(document.getElementById("film").textContent);
const LOOK = FILM.look;
const SPEEDS = [0.1, 0.25, 0.5, 1, 2];
const CHART_HEIGHT = 96, PAD_HEIGHT = 58, CHART_LEFT = 44, OTHER_HEIGHT = 490;
const sceneHeight = () => Math.max(230, Math.min(620, window.innerHeight - OTHER_HEIGHT));
const el = (id) => document.getElementById(id);
const state = { clip: 0, time: 0, playing: true, speed: 1, ghosts: true, overlay: false, loops: true, fps: 0 };
window.filmState = state;

const clip = () => FILM.clips[state.clip];
const frame = () => Math.min(clip().frames - 1, Math.floor(state.time));

function playerAt(columns, player, time) {
  const [name, pose] = FILM.actions[`${columns.character[player][time]} ${columns.action[player][time]}`];
  return {
    x: columns.x[player][time],
    y: columns.y[player][time],
    percent: columns.percent[player][time],
    stocks: columns.stocks[player][time],
    facing: columns.facing[player][time],
    age: columns.state_age[player][time],
    shield: columns.shield_strength[player][time],
    hitlag: columns.hitlag[player][time],
    invulnerable: columns.invulnerable[player][time],
    action: name,
    pose,
  };
}

const playersAt = (columns, time) => [0, 1].map((player) => playerAt(columns, player, time));

function draw() {
  const now = frame(), it = clip();
  const truth = playersAt(it.truth, now), model = playersAt(it.predicted, now);
  drawScenes(it, now, truth, model);
  truth.forEach((player, number) => showPlayer(number, player, model[number], it, now));
  drawChart(it, now);
  showTime(it, now);
}

function drawScenes(it, now, truth, model) {
  const height = sceneHeight();
  const [ctx, width] = fitCanvas(el("scene"), height);
  const isLead = now < it.lead;
  const shared = { stage: it.stage, platforms: it.moving ? it.moving[now] : it.stage ? it.stage.platforms : [], view: it.views[now] };
  const note = it.ground_note;
  const said = isLead ? "shown to the model" : `on its own for ${now - it.lead + 1} frame${now > it.lead ? "s" : ""}`;
  if (state.overlay) {
    drawScene(ctx, { x: 0, y: 0, w: width, h: height }, {
      ...shared, players: model, ghosts: truth, title: "Model, truth as outline", note: both(said, note),
      view: widen(shared.view, width / height),
    });
    return;
  }
  const gap = 12, w = (width - gap) / 2;
  const view = widen(shared.view, w / height);
  drawScene(ctx, { x: 0, y: 0, w, h: height }, { ...shared, view, players: truth, title: "Truth", note });
  drawScene(ctx, { x: w + gap, y: 0, w, h: height }, {
    ...shared, view, players: model, ghosts: state.ghosts && !isLead ? truth : [], title: "Model", note: both(said, note),
  });
}

const both = (...notes) => notes.filter(Boolean).join(" · ");

// The camera is made for one aspect; a wider box shows more at the sides.
const widen = ([x, y, w], aspect) => [x, y, Math.max(w, (w / FILM.aspect) * aspect)];

function showPlayer(number, truth, model, it, now) {
  const card = el(`player${number}`);
  for (const [row, player] of [["truth", truth], ["model", model]]) {
    const cells = card.querySelector(`.${row}`).children;
    cells[1].textContent = `${Math.round(player.percent)} %`;
    cells[2].textContent = "●".repeat(Math.max(0, Math.round(player.stocks))) || "0";
    cells[3].textContent = player.action;
  }
  const cells = card.querySelector(".model").children;
  cells[1].classList.toggle("off", Math.abs(model.percent - truth.percent) >= 1);
  cells[2].classList.toggle("off", Math.round(model.stocks) !== Math.round(truth.stocks));
  cells[3].classList.toggle("off", model.action !== truth.action);
  const [ctx, width] = fitCanvas(card.querySelector("canvas"), PAD_HEIGHT);
  const pad = {};
  for (const name in it.controls) pad[name] = it.controls[name][number][now];
  drawPad(ctx, { x: 0, y: 0, w: width, h: PAD_HEIGHT }, pad, LOOK.colors.players[number]);
}

const chartX = (width, time) => CHART_LEFT + ((width - CHART_LEFT - 8) * time) / Math.max(1, clip().frames - 1);

function drawChart(it, now) {
  const [ctx, width] = fitCanvas(el("chart"), CHART_HEIGHT);
  const bottom = CHART_HEIGHT - 20, top = 10, most = it.most;
  const y = (value) => bottom - (bottom - top) * Math.sqrt(value / most);
  ctx.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  ctx.fillStyle = LOOK.colors.faint;
  ctx.textAlign = "right";
  for (const value of [0, most / 4, most]) {
    ctx.fillText(value, CHART_LEFT - 6, y(value) + 4);
    trace(ctx, [[CHART_LEFT, y(value)], [width - 8, y(value)]], "#222c45", 1);
  }
  ctx.textAlign = "center";
  for (let second = 0; it.lead + second * 60 < it.frames; second++) {
    ctx.fillText(`${second} s`, chartX(width, it.lead - 1 + second * 60), CHART_HEIGHT - 5);
  }
  const curve = (values, color, thick) => trace(ctx, values.map((v, t) => [chartX(width, t), y(v)]), color, thick);
  curve(it.baseline, LOOK.colors.baseline, 1.5);
  curve(it.error, LOOK.colors.error, 2);
  const begin = chartX(width, it.lead - 1);
  ctx.setLineDash([3, 3]);
  trace(ctx, [[begin, top - 6], [begin, bottom]], LOOK.colors.faint, 1);
  ctx.setLineDash([]);
  const x = chartX(width, now);
  trace(ctx, [[x, top - 6], [x, bottom]], LOOK.colors.text, 1.5);
  disc(ctx, [x, y(it.error[now])], 4, LOOK.colors.error);
}

function showTime(it, now) {
  const own = now - it.lead + 1;
  el("time").textContent = own > 0 ? `frame ${own} of ${it.frames - it.lead} (${(own / 60).toFixed(2)} s)` : `${-own} frames before the model begins`;
  el("error").textContent = it.error[now].toFixed(2);
  el("rate").textContent = `${state.fps.toFixed(0)} pictures/s`;
  if (document.activeElement !== el("scrub") || state.playing) el("scrub").value = now;
}

function choose(number) {
  if (!FILM.clips[number]) return;
  state.clip = number;
  state.time = 0;
  el("scrub").max = clip().frames - 1;
  el("clip").value = number;
  el("about").textContent = clip().about;
  clip().characters.forEach((name, player) => (el(`player${player}`).querySelector("h2").textContent = `P${player + 1}  ${name}`));
  draw();
}

function play(on) {
  if (on && frame() >= clip().frames - 1) state.time = 0;
  state.playing = on;
  el("play").textContent = on ? "pause" : "play";
}

function seek(time) {
  state.time = Math.max(0, Math.min(clip().frames - 1, time));
  draw();
}

function step(count) {
  play(false);
  seek(frame() + count);
}

function setSpeed(speed) {
  state.speed = speed;
  el("speed").value = speed;
}

function toggle(name) {
  state[name] = !state[name];
  el(name).setAttribute("aria-pressed", state[name]);
  draw();
}

const KEYS = {
  " ": () => play(!state.playing),
  ArrowLeft: (event) => step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => step(event.shiftKey ? 10 : 1),
  Home: () => seek(0),
  End: () => seek(clip().frames - 1),
  ArrowUp: () => setSpeed(SPEEDS[Math.min(SPEEDS.length - 1, SPEEDS.indexOf(state.speed) + 1)]),
  ArrowDown: () => setSpeed(SPEEDS[Math.max(0, SPEEDS.indexOf(state.speed) - 1)]),
  g: () => toggle("ghosts"),
  v: () => toggle("overlay"),
  l: () => toggle("loops"),
  n: () => choose((state.clip + 1) % FILM.clips.length),
};

document.addEventListener("keydown", (event) => {
  const act = /^[1-9]$/.test(event.key) ? () => choose(Number(event.key) - 1) : KEYS[event.key];
  if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act(event);
});

el("play").onclick = () => play(!state.playing);
el("first").onclick = () => step(-clip().frames);
el("back").onclick = () => step(-1);
el("forward").onclick = () => step(1);
el("last").onclick = () => step(clip().frames);
el("speed").onchange = (event) => setSpeed(Number(event.target.value));
el("clip").onchange = (event) => choose(Number(event.target.value));
el("scrub").oninput = (event) => { play(false); seek(Number(event.target.value)); };
for (const name of ["ghosts", "overlay", "loops"]) el(name).onclick = () => toggle(name);
for (const button of document.querySelectorAll("button, select")) button.addEventListener("click", () => button.tagName === "BUTTON" && button.blur());
el("chart").addEventListener("pointerdown", (event) => {
  const chart = el("chart");
  const move = (e) => {
    const box = chart.getBoundingClientRect();
    seek(Math.round(((e.clientX - box.left - CHART_LEFT) / (box.width - CHART_LEFT - 8)) * (clip().frames - 1)));
  };
  play(false);
  chart.setPointerCapture(event.pointerId);
  move(event);
  chart.onpointermove = move;
  chart.onpointerup = () => (chart.onpointermove = null);
});
window.addEventListener("resize", draw);

let last = 0, counted = 0, since = 0;
function tick(now) {
  const passed = Math.min(0.1, (now - last) / 1000);
  last = now;
  counted += 1;
  if (now - since >= 1000) {
    state.fps = (counted * 1000) / (now - since);
    [counted, since] = [0, now];
  }
  if (state.playing) {
    state.time += passed * 60 * state.speed;
    if (state.time >= clip().frames) {
      if (state.loops) state.time = 0;
      else { state.time = clip().frames - 1; play(false); }
    }
    draw();
  }
  requestAnimationFrame(tick);
}

setSpeed(1);
choose(0);
play(!window.matchMedia("(prefers-reduced-motion: reduce)").matches);
requestAnimationFrame(tick);
