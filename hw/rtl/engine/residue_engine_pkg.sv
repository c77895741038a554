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

  // Digits of the largest modulus: ceil((bits + W + 2) / W), rounded up to even.
  function automatic int unsigned f_k_max(input int unsigned bits, input int unsigned word_bits);
    int unsigned k;
    k = (bits + word_bits + 2 + word_bits - 1) / word_bits;
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

  // Rows of the exponent store: 128 bits each.
  function automatic int unsigned f_exp_rows(input int unsigned contexts,
                                             input int unsigned max_exponent_bits);
    return contexts * ((max_exponent_bits + 127) / 128);
  endfunction

  // Bits of a row address that fits every store.
  function automatic int unsigned f_row_bits(input int unsigned acc_rows,
                                             input int unsigned tab_rows,
                                             input int unsigned exp_rows);
    int unsigned most;
    most = (acc_rows > tab_rows) ? acc_rows : tab_rows;
    most = (exp_rows > most) ? exp_rows : most;
    return $clog2(most);
  endfunction

  // One command, decoded and checked, with what its modulus implies.
  typedef struct packed {
    logic [7:0]  opcode;
    logic [1:0]  window_log2;   // digits of 1, 2, 4, 8 bits
    logic        init_from_a;
    logic [31:0] count;         // results
    logic [31:0] length;        // rows, windows, squarings or factors
    logic [63:0] src_a;
    logic [63:0] src_b;
    logic [63:0] exponents;
    logic [63:0] dst;
    logic [15:0] stride_a;      // in units of 16 bytes
    logic [15:0] stride_b;
    logic [15:0] stride_e;
    logic [15:0] stride_dst;
    logic [7:0]  k;             // digits of the modulus
    logic [7:0]  rows;          // k / 2
    logic [7:0]  slots;         // cycles of one pass
    logic [7:0]  passes;        // passes of one product
    logic [7:0]  exp_rows;      // 128-bit rows of one exponent string
    logic [8:0]  cap;           // elements of a group
    logic [5:0]  emit_cap;      // results that fit the emit queue
  } job_t;

endpackage

`default_nettype wire
