import type {
  AnyEvent,
  ErrorKind,
  EventsSubscribeParams,
  Methods,
  MethodWithoutParams,
} from "../../rpc-schema/kukuri_sidecar.d.ts";

export type * from "../../rpc-schema/kukuri_sidecar.d.ts";

export interface SpawnOptions {
  /** Program and arguments, used as they are; without it `findSidecar(binary)` and `args`. */
  command?: readonly [program: string, ...args: string[]];
  /** Path of the program. */
  binary?: string;
  args?: readonly string[];
  /** Environment; default: ours. */
  env?: NodeJS.ProcessEnv;
  /** Every line of stderr. */
  onLog?: (line: string) => void;
  /** A line on stdout that is not JSON. */
  onProtocolError?: (line: string) => void;
}

export interface CallOptions {
  /** Default 30000. Rejects with a DOMException named `TimeoutError` and cancels the request. */
  timeoutMs?: number;
  /** Rejects with its reason and cancels the request. */
  signal?: AbortSignal;
}

export interface SubscribeOptions extends CallOptions {
  /** Events that wait for the loop at most; default 4096. Above it the oldest become one `lagged` event. */
  highWaterMark?: number;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

type Arguments<M extends keyof Methods> = M extends MethodWithoutParams
  ? [params?: Methods[M]["params"], options?: CallOptions]
  : [params: Methods[M]["params"], options?: CallOptions];

/** The sidecar answered with an error. Switch on `kind`; `message` is for humans. */
export declare class RpcError extends Error {
  readonly code: number;
  readonly kind: ErrorKind;
  readonly retryable: boolean;
  readonly details: Record<string, unknown>;
}

/** The process is gone; calls in flight may or may not have taken effect. */
export declare class SidecarExit extends Error {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stderrTail: string;
}

/** Events in order. `break` or `return()` unsubscribes; it throws SidecarExit when the process dies unasked. */
export interface Subscription extends AsyncIterableIterator<AnyEvent> {
  readonly id: number;
  return(): Promise<IteratorReturnResult<undefined>>;
}

export declare class Sidecar {
  static spawn(options?: SpawnOptions): Sidecar;
  readonly pid: number | undefined;
  /** The last 8192 characters of stderr. */
  readonly stderrTail: string;
  /** Resolves when the process is gone, whatever the reason. */
  readonly exited: Promise<Exit>;
  call<M extends keyof Methods>(method: M, ...args: Arguments<M>): Promise<Methods[M]["result"]>;
  /** May be called before `initialize`, so that no event is missed. */
  subscribe(params?: EventsSubscribeParams, options?: SubscribeOptions): Promise<Subscription>;
  /** `shutdown`, end of stdin, 2 s, SIGTERM, 2 s, SIGKILL to the process group. */
  close(): Promise<Exit>;
}

/** Path of the program: `binary`, KUKURI_SIDECAR_BIN, the npm platform package, this repository's dist/, PATH. */
export declare function findSidecar(binary?: string, env?: NodeJS.ProcessEnv): string;
