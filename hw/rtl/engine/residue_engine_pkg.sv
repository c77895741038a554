// Shapes that the engine's and the card's modules share: the job of one command and derived sizes.
`default_nettype none

package residue_engine_pkg;

  // Entries of the table store with a fixed role; tables and operands start at TabFirst.
  localparam int unsigned TabR2 = 0;
  localparam int unsigned TabOne = 1;
  localparam int unsigned TabExit = 2;
  localparam int unsigned TabFirst = 3;
  // Slots of the operand queue (MUL, PROD), a ring in the table store.
  localparam int unsigned OperandSlots = 32;
  // POW always scans windows of this many bits.
  localparam int unsigned PowWindow = 4;

  // Digits of the largest modulus: g * ceil((bits + g*W + 2) / (g*W)), rounded up to even, where a
  // ring word holds g digits of W bits.
  function automatic int unsigned f_k_max(input int unsigned bits, input int unsigned word_bits,
                                          input int unsigned digits_per_word);
    int unsigned ring_bits, k;
    ring_bits = digits_per_word * word_bits;
    k = digits_per_word * ((bits + ring_bits + 2 + ring_bits - 1) / ring_bits);
    return k + (k % 2);
  endfunction

  // Moduli of at most this many digits run with the full number of contexts.
  function automatic int unsigned f_k_half(input int unsigned k_max);
    return 2 * ((k_max + 3) / 4);
  endfunction

  // Rows (digit pairs) of the accumulator store: ONE, and two groups of contexts.
  function automatic int unsigned f_acc_rows(input int unsigned contexts,
                                             input int unsigned k_max);
    int unsigned half, full;
    half = (1 + 2 * contexts) * (f_k_half(k_max) / 2);
    full = (1 + contexts) * (k_max / 2);
    return (half > full) ? half : full;
  endfunction

  // Rows of the table store.
  function automatic int unsigned f_tab_rows(input int unsigned entries,
                                             input int unsigned k_max);
    return entries * (k_max / 2);
  endfunction

  // Rows of the modulus store: the command's M, and one of each context of a power with a modulus
  // per element. Those contexts have 16 entries of the table store each.
  function automatic int unsigned f_mod_rows(input int unsigned acc_rows,
                                             input int unsigned tab_rows,
                                             input int unsigned k_max);
    int unsigned rows;
    rows = k_max / 2 + (tab_rows >> PowWindow);
    return (rows < acc_rows) ? rows : acc_rows;
  endfunction

  // Rows of the exponent store: 128 bits each.
  function automatic int unsigned f_exp_rows(input int unsigned contexts,
                                             input int unsigned max_exponent_bits);
    return contexts * ((max_exponent_bits + 127) / 128);
  endfunction

  // Rows of up to three residues, without a multiplier.
  function automatic logic [9:0] f_residue_rows(input logic [1:0] residues,
                                                input logic [7:0] rows);
    return (residues[1] ? {1'b0, rows, 1'b0} : '0) + (residues[0] ? {2'd0, rows} : '0);
  endfunction

  function automatic int unsigned f_max_rows(input int unsigned a, input int unsigned b);
    return (a > b) ? a : b;
  endfunction

  // Bits of a row address that fits every store.
  function automatic int unsigned f_row_bits(input int unsigned acc_rows,
                                             input int unsigned tab_rows,
                                             input int unsigned exp_rows);
    return $clog2(f_max_rows(f_max_rows(acc_rows, tab_rows), exp_rows));
  endfunction

  // One command, decoded and checked, with what its modulus implies: what all lanes share.
  typedef struct packed {
    logic [7:0]  opcode;
    logic [1:0]  window_log2;   // digits of 1, 2, 4, 8 bits
    logic        init_from_a;
    logic [31:0] count;         // results; to the engine: those of its lane
    logic [31:0] length;        // rows, windows, squarings or factors
    logic [63:0] table_addr;    // POW_FIXED, MULTI_POW
    logic [15:0] stride_a;      // in units of 16 bytes
    logic [15:0] stride_b;
    logic [15:0] stride_e;
    logic [15:0] stride_dst;
    logic [7:0]  k;             // digits of the modulus
    logic [7:0]  words;         // ring words of the modulus: k, or k / 2 with two digits a word
    logic [7:0]  rows;          // k / 2
    logic [7:0]  slots;         // cycles of one pass
    logic [7:0]  passes;        // passes of one product
    logic [7:0]  exp_rows;      // 128-bit rows of one exponent string
    logic [8:0]  cap;           // elements of a group
    logic [5:0]  emit_cap;      // results that fit the emit queue
    logic        per_element;   // POW: every element has its own modulus
  } job_t;

  // The share of one lane in a command: elements first .. first + count - 1.
  typedef struct packed {
    logic [31:0] first;
    logic [31:0] count;         // 0: the lane rests
    logic [63:0] src_a;         // of its first element; PROD: of residue 0
    logic [63:0] src_b;         // MUL: second operand; POW: modulus block of its first element
    logic [63:0] exponents;     // of its first element; PROD: of the whole index
    logic [63:0] dst;
  } lane_job_t;

  // What a lane reports: its state, and what to count in this cycle.
  typedef struct packed {
    logic engine_busy;
    logic loader_busy;
    logic storer_busy;
    logic storer_waiting;       // for a result
    logic mismatch;             // self-test: a result was not 1
    logic store_error;          // pulse: a parity error in a store
    logic bad_modulus;          // pulse: an element's modulus is of another size
    logic even_modulus;         // pulse: an element's modulus is even
  } lane_state_t;

  typedef struct packed {
    logic slot_busy;            // a slot of the ring holds a product
    logic product;              // a product was issued
    logic stall;                // a product waits for data
  } lane_count_t;

endpackage

`default_nettype wire
