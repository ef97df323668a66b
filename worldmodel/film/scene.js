// Draws a stage with its players on a canvas. The film's page and the play page share it; `LOOK` comes from look.py.
"use strict";

const FIGURE = 13;
const LIMBS = [["neck", "back_hand"], ["hip", "back_foot"], ["neck", "hip"], ["hip", "front_foot"], ["neck", "front_hand"]];
const FULL_SHIELD = 60;

// Melee units to pixels within a box {x, y, w, h}; view is [centre x, centre y, width in units].
function makeCamera(box, view) {
  const scale = box.w / view[2];
  return {
    scale,
    x: (value) => box.x + box.w / 2 + (value - view[0]) * scale,
    y: (value) => box.y + box.h / 2 - (value - view[1]) * scale,
  };
}

// scene: {stage, note, platforms, view, players, ghosts, title}
function drawScene(ctx, box, scene) {
  const camera = makeCamera(box, scene.view);
  ctx.save();
  ctx.beginPath();
  ctx.roundRect(box.x, box.y, box.w, box.h, 10);
  ctx.clip();
  drawSky(ctx, box);
  drawStage(ctx, box, camera, scene);
  for (const [number, player] of (scene.ghosts || []).entries()) drawPlayer(ctx, box, camera, player, number, true);
  for (const [number, player] of scene.players.entries()) drawPlayer(ctx, box, camera, player, number, false);
  drawTitle(ctx, box, scene);
  ctx.restore();
}

function drawSky(ctx, box) {
  const sky = ctx.createLinearGradient(0, box.y, 0, box.y + box.h);
  sky.addColorStop(0, LOOK.colors.sky[0]);
  sky.addColorStop(1, LOOK.colors.sky[1]);
  ctx.fillStyle = sky;
  ctx.fillRect(box.x, box.y, box.w, box.h);
}

function drawStage(ctx, box, camera, scene) {
  const stage = scene.stage;
  ctx.lineCap = ctx.lineJoin = "round";
  if (!stage) {
    ctx.fillStyle = LOOK.colors.body;
    ctx.fillRect(box.x, camera.y(0), box.w, box.h);
    trace(ctx, [[box.x, camera.y(0)], [box.x + box.w, camera.y(0)]], LOOK.colors.ground, 3);
    return;
  }
  const [left, right, bottom, top] = stage.zone;
  ctx.setLineDash([8, 8]);
  ctx.strokeStyle = LOOK.colors.zone;
  ctx.lineWidth = 2;
  ctx.strokeRect(camera.x(left), camera.y(top), (right - left) * camera.scale, (top - bottom) * camera.scale);
  ctx.setLineDash([]);
  const floor = stage.floor.map(([x, y]) => [camera.x(x), camera.y(y)]);
  ctx.beginPath();
  for (const [x, y] of [...floor, ...stage.body.map(([x, y]) => [camera.x(x), camera.y(y)])]) ctx.lineTo(x, y);
  ctx.closePath();
  ctx.fillStyle = LOOK.colors.body;
  ctx.fill();
  trace(ctx, floor, LOOK.colors.ground, 3);
  for (const [from, to, height] of scene.platforms) {
    trace(ctx, [[camera.x(from), camera.y(height)], [camera.x(to), camera.y(height)]], LOOK.colors.platform, 4);
  }
}

function trace(ctx, points, color, width) {
  ctx.beginPath();
  for (const [x, y] of points) ctx.lineTo(x, y);
  ctx.strokeStyle = color;
  ctx.lineWidth = width;
  ctx.stroke();
}

// Where a body's ends are after `age` frames of a pose.
function bend(pose, age) {
  let share = Math.max(0, age) / pose.frames;
  share = pose.repeats ? 1 - Math.abs((share % 2) - 1) : Math.min(1, share);
  const joints = {};
  for (const name in pose.a) {
    joints[name] = pose.a[name].map((value, axis) => value + share * (pose.b[name][axis] - value));
  }
  return joints;
}

function drawPlayer(ctx, box, camera, player, number, ghost) {
  const color = LOOK.colors.players[number];
  const x = camera.x(player.x), y = camera.y(player.y), unit = camera.scale;
  ctx.save();
  ctx.globalAlpha = ghost ? 0.4 : 1;
  if (player.pose === LOOK.gone) drawLoss(ctx, box, x, y, color);
  else if (!drawOffscreen(ctx, box, x, y - 6 * unit, color, number)) {
    ctx.save();
    ctx.translate(x, y);
    ctx.scale(player.facing ? unit : -unit, -unit);
    drawFigure(ctx, player, color, ghost);
    ctx.restore();
    if (!ghost) drawLabel(ctx, x, Math.max(box.y + 14, y - (FIGURE + 7) * unit), `P${number + 1}`, color);
  }
  ctx.restore();
}

function drawFigure(ctx, player, color, ghost) {
  const pose = LOOK.poses[player.pose], joints = bend(pose, player.age);
  ctx.save();
  if (pose.spin) {
    ctx.translate(0, 6);
    ctx.rotate((pose.spin * player.age * Math.PI) / 180);
    ctx.translate(0, -6);
  }
  for (const [width, paint] of ghost ? [[1.1, color]] : [[3.6, "#05070d"], [2.3, color]]) {
    for (const [from, to] of LIMBS) trace(ctx, [joints[from], joints[to]], paint, width);
    ctx.beginPath();
    ctx.arc(...joints.head, ghost ? 2.2 : 2.3 + (width - 2.3) / 2, 0, 7);
    ctx.fillStyle = ctx.strokeStyle = paint;
    if (ghost) ctx.stroke();
    else ctx.fill();
  }
  drawNose(ctx, joints.head, color);
  if (pose.strikes) disc(ctx, joints[pose.strikes], 1.7, LOOK.colors.bright);
  ctx.restore();
  if (player.pose === "guard") drawShield(ctx, player, color);
  if (player.hitlag > 0) ring(ctx, [0, 6.5], 8.5, LOOK.colors.bright, 0.5);
  if (player.invulnerable) ring(ctx, [0, 6.5], 9.5, color, 0.45);
}

function drawNose(ctx, [x, y], color) {
  ctx.beginPath();
  ctx.moveTo(x + 2.3, y + 1.4);
  ctx.lineTo(x + 4.6, y);
  ctx.lineTo(x + 2.3, y - 1.4);
  ctx.fillStyle = color;
  ctx.fill();
}

function drawShield(ctx, player, color) {
  const alpha = ctx.globalAlpha;
  ctx.globalAlpha = 0.35 * alpha;
  disc(ctx, [0.5, 6], 3.5 + 6.5 * Math.max(0, Math.min(1, player.shield / FULL_SHIELD)), color);
  ctx.globalAlpha = alpha;
}

function disc(ctx, [x, y], radius, color) {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 7);
  ctx.fillStyle = color;
  ctx.fill();
}

function ring(ctx, [x, y], radius, color, width) {
  ctx.beginPath();
  ctx.arc(x, y, radius, 0, 7);
  ctx.strokeStyle = color;
  ctx.lineWidth = width;
  ctx.stroke();
}

// A cross, at the border of the picture where the place itself lies outside.
function drawLoss(ctx, box, x, y, color) {
  x = Math.max(box.x + 18, Math.min(box.x + box.w - 18, x));
  y = Math.max(box.y + 40, Math.min(box.y + box.h - 18, y));
  trace(ctx, [[x - 9, y - 9], [x + 9, y + 9]], color, 4);
  trace(ctx, [[x - 9, y + 9], [x + 9, y - 9]], color, 4);
}

// An arrow at the border towards a player outside the picture; false where the player is inside.
function drawOffscreen(ctx, box, x, y, color, number) {
  const edge = 20;
  const px = Math.max(box.x + edge, Math.min(box.x + box.w - edge, x));
  const py = Math.max(box.y + edge, Math.min(box.y + box.h - edge, y));
  if (Math.hypot(px - x, py - y) <= edge) return false;
  ctx.save();
  ctx.translate(px, py);
  ctx.rotate(Math.atan2(y - py, x - px));
  ctx.beginPath();
  ctx.moveTo(15, 0);
  ctx.lineTo(-6, 9);
  ctx.lineTo(-6, -9);
  ctx.fillStyle = color;
  ctx.fill();
  ctx.restore();
  return true;
}

function drawLabel(ctx, x, y, text, color) {
  ctx.font = "700 12px system-ui, 'DejaVu Sans', sans-serif";
  ctx.textAlign = "center";
  ctx.fillStyle = color;
  ctx.fillText(text, x, y);
}

function drawTitle(ctx, box, scene) {
  ctx.textAlign = "left";
  ctx.fillStyle = LOOK.colors.text;
  ctx.font = "600 15px system-ui, 'DejaVu Sans', sans-serif";
  ctx.fillText(scene.title || "", box.x + 14, box.y + 25);
  if (!scene.note) return;
  ctx.fillStyle = LOOK.colors.faint;
  ctx.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  ctx.fillText(scene.note, box.x + 14, box.y + 43);
}

// A controller: pad maps control names to values (sticks and shoulder 0 to 1, buttons true or false).
function drawPad(ctx, box, pad, color) {
  const r = box.h * 0.36, cy = box.y + box.h / 2;
  drawStick(ctx, box.x + r + 2, cy, r, pad.main_stick_x, pad.main_stick_y, color);
  drawStick(ctx, box.x + 2.9 * r + 8, cy + 0.3 * r, 0.62 * r, pad.c_stick_x, pad.c_stick_y, "#ffd166");
  const left = box.x + 3.9 * r + 14;
  ctx.strokeStyle = LOOK.colors.faint;
  ctx.lineWidth = 1;
  ctx.strokeRect(left, box.y + 5, 8, box.h - 10);
  ctx.fillStyle = color;
  ctx.fillRect(left, box.y + box.h - 5 - (box.h - 10) * pad.shoulder, 8, (box.h - 10) * pad.shoulder);
  LOOK.buttons.forEach((name, place) => {
    const x = left + 26 + (place % 4) * 27, y = box.y + box.h * (place < 4 ? 0.29 : 0.72);
    const down = pad[`button_${name}`];
    disc(ctx, [x, y], 11, down ? color : LOOK.colors.panel);
    ring(ctx, [x, y], 11, down ? color : "#3a4766", 1);
    ctx.fillStyle = down ? "#0d1220" : LOOK.colors.faint;
    ctx.font = `700 ${name.length > 1 ? 10 : 11}px system-ui, 'DejaVu Sans', sans-serif`;
    ctx.textAlign = "center";
    ctx.fillText(name.replace("D_UP", "↑"), x, y + 4);
  });
}

function drawStick(ctx, cx, cy, r, x, y, color) {
  ctx.beginPath();
  for (let corner = 0; corner < 8; corner++) {
    ctx.lineTo(cx + r * Math.cos((corner * Math.PI) / 4), cy + r * Math.sin((corner * Math.PI) / 4));
  }
  ctx.closePath();
  ctx.fillStyle = LOOK.colors.panel;
  ctx.fill();
  ctx.strokeStyle = "#3a4766";
  ctx.lineWidth = 1;
  ctx.stroke();
  disc(ctx, [cx + (x - 0.5) * 2 * r * 0.8, cy - (y - 0.5) * 2 * r * 0.8], r * 0.36, color);
}

// Fits a canvas to its place on a screen of any density; returns its context in CSS pixels.
function fitCanvas(canvas, height) {
  const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  canvas.style.height = `${height}px`;
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return [ctx, width];
}
